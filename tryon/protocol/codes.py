"""Every code that a client meets, as a type: of a refusal, or of a failed session."""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Codes of refusals and of failed sessions, and those that a client makes itself.

    The first two are :data:`~tryon.protocol.errors.CODES` and
    :data:`~tryon.protocol.errors.FAILURES`.

    A member equals its text: ``problem.code == ErrorCode.DELETED``. A processor may
    add codes of its own, so a code may be none of these.
    """

    # of a refusal
    BAD_MULTIPART = "bad_multipart"
    BAD_REQUEST = "bad_request"
    BAD_IDEMPOTENCY_KEY = "bad_idempotency_key"
    INVALID_TOKEN = "invalid_token"  # noqa: S105 - a code
    INVALID_TICKET = "invalid_ticket"
    TOKEN_REQUIRED = "token_required"  # noqa: S105
    INSUFFICIENT_SCOPE = "insufficient_scope"
    PROCESSOR_NOT_ALLOWED = "processor_not_allowed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    TOO_SLOW = "too_slow"
    NOT_FINISHED = "not_finished"
    NOT_COMPLETED = "not_completed"
    NOT_RUNNING = "not_running"
    IDEMPOTENCY_IN_FLIGHT = "idempotency_in_flight"
    DELETED = "deleted"
    EXPIRED = "expired"
    BODY_TOO_LARGE = "body_too_large"
    NOT_MULTIPART = "not_multipart"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    UNSUPPORTED_IMAGE = "unsupported_image"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    MISSING_IMAGE = "missing_image"
    UNKNOWN_INPUT = "unknown_input"
    UNREADABLE_IMAGE = "unreadable_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_TOO_LARGE = "image_too_large"
    BAD_PARAMS = "bad_params"
    BAD_WEBHOOK = "bad_webhook"
    IDEMPOTENCY_NEEDS_TOKEN = "idempotency_needs_token"  # noqa: S105
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    RATE_LIMITED = "rate_limited"
    OVER_QUOTA = "over_quota"
    INTERNAL_ERROR = "internal_error"
    UNAVAILABLE = "unavailable"
    QUEUE_FULL = "queue_full"
    STORAGE_FULL = "storage_full"
    # of a failed session
    MOCK_FAILURE = "mock_failure"
    PERSON_NOT_FOUND = "person_not_found"
    POSE_NOT_SUPPORTED = "pose_not_supported"
    GARMENT_NOT_FOUND = "garment_not_found"
    MODERATED_INPUT = "moderated_input"
    MODERATED_OUTPUT = "moderated_output"
    INPUT_LOST = "input_lost"
    BACKEND_BUSY = "backend_busy"
    BACKEND_COLD = "backend_cold"
    BACKEND_UNREACHABLE = "backend_unreachable"
    BACKEND_AUTH = "backend_auth"
    QUOTA_EXCEEDED = "quota_exceeded"
    PROCESSOR_ERROR = "processor_error"
    PROCESSOR_CRASHED = "processor_crashed"
    WORKER_LOST = "worker_lost"
    TIMEOUT = "timeout"
    INTERNAL = "internal"
    # of the client
    NETWORK = "network"
    """A call without an answer."""
    UNKNOWN = "unknown"
    """An answer that is not this product's."""
    CLOSED = "closed"
    """A call that the client's own close ended."""
    ERASED = "erased"
    """A session that was there and is gone, and nothing said why."""
    CANCELLED = "cancelled"
    """A session without a result, because it was cancelled."""
