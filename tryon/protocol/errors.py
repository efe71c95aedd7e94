"""Every refusal, in one tree.

    TryOnError
    +-- BadRequest        400  bad_multipart, bad_request, bad_idempotency_key
    +-- Unauthorized      401  invalid_token, invalid_ticket, token_required
    |                          (4501)
    +-- Forbidden         403  insufficient_scope, processor_not_allowed (4501)
    +-- NotFound          404  not_found (4504)
    +-- MethodNotAllowed  405  method_not_allowed
    +-- NotAcceptable     406  not_acceptable
    +-- TooSlow           408  too_slow
    +-- Conflict          409  not_finished, not_completed, not_running,
    |                          idempotency_in_flight
    +-- Gone              404  deleted, expired (4510)
    +-- TooLarge          413  body_too_large
    +-- UnsupportedMedia  415  not_multipart, unsupported_encoding, unsupported_image
    +-- BadRange          416  range_not_satisfiable
    +-- Unprocessable     422  missing_image, unknown_input, unreadable_image,
    |                          too_many_pixels, image_too_small, image_too_large,
    |                          bad_params, bad_webhook, idempotency_needs_token,
    |                          idempotency_mismatch
    +-- RateLimited       429  rate_limited, over_quota (4029)
    +-- InternalError     500  internal_error (4001)
    +-- Unavailable       503  unavailable, queue_full (4053)
    +-- StorageFull       507  storage_full (4053)

The status is that of an HTTP answer, the number in parentheses the close code of a
socket (4500 where there is none). :data:`CODES` is the table that the documentation and
the tests are held to; a test also holds this drawing to it. To add an error code, add
it to a class, and run ``python -m testkit.declarations --write``. A failed *session*
has an error too; those codes are in :data:`FAILURES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from tryon.protocol.close_codes import CloseCode


@dataclass(frozen=True, slots=True)
class Code:
    """One error code: a title, a message safe to show, whether a retry may succeed."""

    title: str
    detail: str
    retryable: bool = False


class TryOnError(Exception):
    """Base of every refusal.

    ``detail`` is safe to show; ``retry_after`` is in seconds.
    """

    status: ClassVar[int] = 500
    close_code: ClassVar[int] = CloseCode.MISUSE
    codes: ClassVar[dict[str, Code]] = {}
    limit: str | None = None
    """Name of the limit that refused the request, from :data:`LIMITS`."""

    def __init__(
        self,
        code: str | None = None,
        detail: str | None = None,
        *,
        retry_after: float | None = None,
        part: str | None = None,
        pointer: str | None = None,
    ) -> None:
        self.code = code or next(iter(self.codes))
        known = self.codes[self.code]
        self.title = known.title
        self.detail = detail or known.detail
        self.retryable = known.retryable
        self.retry_after = retry_after
        self.part = part
        """Name of the part of an upload that was refused, as the client gave it."""
        self.pointer = pointer
        """Place in that part's JSON (RFC 6901); with ``bad_params``."""
        super().__init__(f"{self.code}: {self.detail}")


class BadRequest(TryOnError):
    status = 400
    codes = {
        "bad_multipart": Code("Malformed multipart body", "The multipart body ended early or is malformed."),
        "bad_request": Code("Bad request", "A parameter is malformed."),
        "bad_idempotency_key": Code("Bad idempotency key", "An Idempotency-Key is 1 to 255 visible ASCII characters."),
    }


class Unauthorized(TryOnError):
    """A credential that is malformed, expired, forged or missing.

    Only where the refusal says nothing about whether a session exists.
    """

    status = 401
    close_code = CloseCode.UNAUTHORIZED
    codes = {
        "invalid_token": Code("Invalid token", "A client token is 22 to 128 characters of A-Z a-z 0-9 _ and -."),
        "invalid_ticket": Code("Invalid ticket", "The ticket is expired or was not issued here."),
        "token_required": Code("Token required", "This call needs a client token."),
    }


class Forbidden(TryOnError):
    """A valid credential that does not grant this."""

    status = 403
    close_code = CloseCode.UNAUTHORIZED
    codes = {
        "insufficient_scope": Code("Insufficient scope", "The token lacks the scope that this service asks for."),
        "processor_not_allowed": Code("Processor not allowed", "Your plan does not include this try-on."),
    }


class NotFound(TryOnError):
    """An unknown path or session; also a session without a credential for it."""

    status = 404
    close_code = CloseCode.NOT_FOUND
    codes = {"not_found": Code("Not found", "There is nothing here, or it is not yours.")}


class MethodNotAllowed(TryOnError):
    status = 405
    codes = {"method_not_allowed": Code("Method not allowed", "This path does not know that method.")}


class NotAcceptable(TryOnError):
    status = 406
    codes = {"not_acceptable": Code("Not acceptable", "This representation is not offered.")}


class TooSlow(TryOnError):
    status = 408
    codes = {"too_slow": Code("Too slow", "The body of the request came too slowly.", True)}


class Conflict(TryOnError):
    status = 409
    codes = {
        "not_finished": Code("Not failed or cancelled", "Only a failed or cancelled session can be tried again."),
        "not_completed": Code("Not completed", "Only the result of a completed session can be shared."),
        "not_running": Code("Not running", "No worker runs this session now."),
        "idempotency_in_flight": Code(
            "Request in flight", "The first request with this Idempotency-Key is still being answered.", True
        ),
    }


class Gone(TryOnError):
    """A session that was erased while a client followed it.

    Sent only on sockets and streams; an HTTP request is answered with ``not_found``.
    """

    status = 404
    close_code = CloseCode.GONE
    codes = {
        "deleted": Code("Deleted", "The session was deleted."),
        "expired": Code("Expired", "The session's time is over; everything of it was erased."),
    }


class TooLarge(TryOnError):
    status = 413
    codes = {"body_too_large": Code("Body too large", "The upload is larger than allowed.")}


class UnsupportedMedia(TryOnError):
    status = 415
    codes = {
        "not_multipart": Code("Not multipart", "Send the photo as multipart/form-data in a part named image."),
        "unsupported_encoding": Code(
            "Unsupported encoding", "The body has a Content-Encoding; send it without compression."
        ),
        "unsupported_image": Code(
            "Unsupported image", "The file is not an image of a supported format, such as JPEG, PNG or WebP."
        ),
    }


class BadRange(TryOnError):
    status = 416
    codes = {"range_not_satisfiable": Code("Range not satisfiable", "No range that was asked for lies in the file.")}


class Unprocessable(TryOnError):
    status = 422
    codes = {
        "missing_image": Code("Missing image", "A part with a photo is missing or empty."),
        "unknown_input": Code("Unknown input", "A part holds a file that the try-on does not take."),
        "unreadable_image": Code("Unreadable image", "The image is damaged or incomplete."),
        "too_many_pixels": Code("Too many pixels", "The image has more pixels than allowed."),
        "image_too_small": Code("Image too small", "A side of the image is shorter than allowed."),
        "image_too_large": Code("Image too large", "A side of the image is longer than allowed."),
        "bad_params": Code("Bad params", "params must be a JSON object of at most 4 KiB."),
        "bad_webhook": Code("Bad webhook", "This address of a webhook is not allowed here."),
        "idempotency_needs_token": Code("Token needed", "An Idempotency-Key needs a client token to belong to."),
        "idempotency_mismatch": Code(
            "Key used before", "This Idempotency-Key was used with another photo or other params."
        ),
    }


class RateLimited(TryOnError):
    """More than one client may have; ``limit`` says of what.

    The detail is that of the limit in :data:`LIMITS` or :data:`QUOTAS`.
    """

    status = 429
    close_code = CloseCode.RATE_LIMITED
    codes = {
        "rate_limited": Code("Rate limited", "Too many requests from this address; wait a little.", True),
        "over_quota": Code("Over quota", "Your plan grants no more of this now.", True),
    }

    def __init__(
        self,
        code: str | None = None,
        detail: str | None = None,
        *,
        retry_after: float | None = None,
        limit: str | None = None,
    ) -> None:
        super().__init__(code, detail or LIMITS.get(limit or "") or QUOTAS.get(limit or ""), retry_after=retry_after)
        self.limit = limit


class InternalError(TryOnError):
    status = 500
    close_code = CloseCode.RESYNC
    codes = {
        "internal_error": Code("Internal error", "The server failed; the request id helps to find the reason.", True)
    }


class Unavailable(TryOnError):
    status = 503
    close_code = CloseCode.OVERLOADED
    codes = {
        "unavailable": Code("Unavailable", "The service cannot do this right now; try again shortly.", True),
        "queue_full": Code("Queue full", "Too many sessions are waiting; try again shortly.", True),
    }


class StorageFull(TryOnError):
    status = 507
    close_code = CloseCode.OVERLOADED
    codes = {"storage_full": Code("Storage full", "There is no room for the photo right now.", True)}


ERRORS: Final[tuple[type[TryOnError], ...]] = (
    BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, TooSlow, Conflict, Gone, TooLarge,
    UnsupportedMedia, BadRange, Unprocessable, RateLimited, InternalError, Unavailable, StorageFull,
)  # fmt: skip

CODES: Final[dict[str, type[TryOnError]]] = {code: error for error in ERRORS for code in error.codes}

LIMITS: Final[dict[str, str]] = {
    "upload_rate": "Too many requests from this address; wait a little.",
    "crash_rate": "Too many crashes were asked for from this address; wait a little.",
    "ops_tokens": "Too many wrong tokens came from this address; wait a little.",
    "uploads_per_address": "Too many uploads at once from this address.",
    "spooled_bytes_per_address": "The unfinished uploads of this address hold too many bytes.",
    "spooled_bytes_per_process": "The unfinished uploads of all addresses hold too many bytes; try again shortly.",
    "connections_per_address": "Too many HTTP connections from this address.",
    "sockets_per_address": "Too many open connections from this address.",
    "sockets_per_session": "Too many open connections to this session.",
    "sockets_per_owner": "Too many connections that follow all of your sessions.",
    "queue_share_per_owner": "Too many of your sessions are waiting; wait until some have run.",
    "queue_share_per_address": "Too many sessions of this address are waiting; wait until some have run.",
    "stored_bytes_per_owner": "Your photos take too much room; delete some, or wait until they expire.",
    "stored_bytes_per_address": "Photos of this address take too much room; delete some, or wait until they expire.",
}
"""Limits that ``rate_limited`` names in ``limit``, each with its message.

A limit has the name of its setting, in small letters and without ``TRYON_``.
"""


QUOTAS: Final[dict[str, str]] = {
    "uploads_per_day": "You have made all try-ons of today that your plan grants; the next ones tomorrow.",
    "concurrent_sessions": "All try-ons at once that your plan grants are under way; wait until one has ended.",
    "stored_bytes": "Your photos take all the room that your plan grants; delete some, or wait until they expire.",
}
"""Limits that ``over_quota`` names in ``limit``: the fields of a plan."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One code of a failed session: what happened, and what the person can do."""

    title: str
    cause: str
    fix: str
    retryable: bool = False
    """Whether the same photos may succeed when they are tried again."""

    @property
    def detail(self) -> str:
        """Return the message for the person: the cause, then the fix."""
        return f"{self.cause} {self.fix}"


_AGAIN: Final = "Please try again."
_LATER: Final = "Please try again in a few minutes."
_OTHER: Final = "Please use another photo."
_OPERATOR: Final = "The operator of this service has to look at it."

FAILURES: Final[dict[str, Failure]] = {
    "mock_failure": Failure("Mock failure", "The try-on did not work out this time.", _AGAIN, True),
    "person_not_found": Failure(
        "Person not found",
        "No person was found in the photo.",
        "Please use a photo of one person, seen from the front, from the head to the hips at least.",
    ),
    "pose_not_supported": Failure(
        "Pose not supported",
        "The person stands or sits in a way that the try-on cannot dress.",
        "Please use a photo that is taken from the front, with the arms beside the body.",
    ),
    "garment_not_found": Failure(
        "Garment not found",
        "No garment was found in its picture.",
        "Please use a picture of one garment alone, seen from the front, on a plain ground.",
    ),
    "unreadable_image": Failure("Unreadable image", "A photo could not be read.", _OTHER),
    "moderated_input": Failure("Photo refused", "A photo was refused by the rules for pictures.", _OTHER),
    "moderated_output": Failure(
        "Result refused",
        "The result was refused by the rules for pictures.",
        "Please try again, or use another photo.",
        True,
    ),
    "input_lost": Failure(
        "Input lost", "The uploaded photo could not be read any more.", "Please upload it once more."
    ),
    "backend_busy": Failure("Backend busy", "Too many people are trying clothes on right now.", _LATER, True),
    "backend_cold": Failure("Backend cold", "The try-on was still starting up when its time was over.", _LATER, True),
    "backend_unreachable": Failure("Backend unreachable", "The try-on could not be reached.", _LATER, True),
    "backend_auth": Failure("Backend refused access", "This service was refused by the try-on it uses.", _OPERATOR),
    "quota_exceeded": Failure("Quota exceeded", "This service has used up what it may use of the try-on.", _OPERATOR),
    "processor_error": Failure(
        "Processor error",
        "The try-on could not be made from this photo.",
        "Please try again, or use another photo.",
        True,
    ),
    "processor_crashed": Failure("Processor crashed", "The try-on stopped unexpectedly.", _AGAIN, True),
    "worker_lost": Failure("Worker lost", "The try-on was interrupted too often.", _AGAIN, True),
    "timeout": Failure("Timeout", "The try-on took too long.", _AGAIN, True),
    "storage_full": Failure("Storage full", "There was no room for the result.", "Please try again later.", True),
    "internal": Failure("Internal error", "Something in this service failed.", _AGAIN, True),
}
"""Codes in ``error`` of a failed session, each with its cause and its fix.

A processor may add codes of its own, with a message that is safe to show.
"""
