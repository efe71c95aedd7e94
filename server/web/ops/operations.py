"""Every operation of the operator's page, one row each, as in ``web.api.operations``.

They are routes only where ``TRYON_OPS_TOKEN`` is set; elsewhere their paths are
unknown. The rows make a document of their own, which only operators can read:
the public one does not name them.
"""

from __future__ import annotations

from typing import Final

from server.domain import operator
from server.domain.operator import Done, Overview, SessionRow
from server.web.api.operation import Answer, Http, Operation

OPERATOR: Final = ("bearer",)
_LOGIN: Final = Answer(text="The form to sign in, with what was wrong.", media="text/html")
_ACCESS_ERRORS: Final = ("invalid_token", "token_required", "rate_limited", "unavailable")
_SESSION_ERRORS: Final = (*_ACCESS_ERRORS, "not_found")

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        method="GET",
        path=operator.PAGE,
        name="operator_page",
        handler=Http(lambda web: web.operator.page),
        tag="page",
        summary="Show the operator's page",
        security=("",),
        answers={200: Answer(text="The page.", media="text/html"), 401: _LOGIN},
        errors=("rate_limited",),
    ),
    Operation(
        method="POST",
        path=operator.LOGIN,
        name="operator_login",
        handler=Http(lambda web: web.operator.login),
        tag="page",
        summary="Sign in",
        text="The form's field `token`. The answer sets a cookie for 12 hours and leads to the page.",
        security=("",),
        answers={303: Answer(text="To the page.", headers=("Location",)), 401: _LOGIN, 429: _LOGIN},
        errors=("bad_request", "body_too_large"),
    ),
    Operation(
        method="POST",
        path=operator.LOGOUT,
        name="operator_logout",
        handler=Http(lambda web: web.operator.logout),
        tag="page",
        summary="Sign out",
        security=("",),
        answers={303: Answer(text="To the form.", headers=("Location",))},
        errors=("bad_request",),
    ),
    Operation(
        method="GET",
        path=operator.EVENTS,
        name="operator_events",
        handler=Http(lambda web: web.operator.events),
        tag="live",
        summary="Follow everything as Server-Sent Events",
        text="The first event is an overview. Then: `state` once a second, `sessions` with what is new or has changed, "
        "`actions` of all operators, `bye` at the end.",
        security=OPERATOR,
        answers={200: Answer(text="The stream.", media="text/event-stream")},
        errors=_ACCESS_ERRORS,
    ),
    Operation(
        method="GET",
        path=operator.OVERVIEW,
        name="operator_overview",
        handler=Http(lambda web: web.operator.overview),
        tag="live",
        summary="Read everything once",
        security=OPERATOR,
        answers={200: Answer(text="The overview.", body=Overview)},
        errors=_ACCESS_ERRORS,
    ),
    Operation(
        method="GET",
        path=operator.SESSION,
        name="operator_session",
        handler=Http(lambda web: web.operator.session),
        tag="live",
        summary="Read any living session with its timeline",
        parameters=("session_id",),
        security=OPERATOR,
        answers={200: Answer(text="The session.", body=SessionRow)},
        errors=_SESSION_ERRORS,
    ),
    Operation(
        method="POST",
        path=operator.REDRIVE,
        name="operator_redrive",
        handler=Http(lambda web: web.operator.redrive),
        tag="actions",
        summary="Get a session going again",
        text="A failed or cancelled session is retried for its owner, a waiting one is enqueued again, and a running one is "
        "taken from its worker and waits for another; that attempt does not count.",
        parameters=("session_id",),
        security=OPERATOR,
        answers={
            200: Answer(text="Enqueued again, taken from its worker, or retried before.", body=Done),
            201: Answer(text="A new session retries it.", body=Done),
        },
        errors=(*_SESSION_ERRORS, "not_finished", "bad_params", "missing_image", "unknown_input", "storage_full"),
    ),
    Operation(
        method="POST",
        path=operator.CANCEL,
        name="operator_cancel",
        handler=Http(lambda web: web.operator.cancel),
        tag="actions",
        summary="Cancel a session",
        parameters=("session_id",),
        security=OPERATOR,
        answers={
            200: Answer(text="Cancelled, or ended before.", body=Done),
            202: Answer(text="Running: its worker was asked to stop.", body=Done),
        },
        errors=_SESSION_ERRORS,
    ),
    Operation(
        method="POST",
        path=operator.ERASE,
        name="operator_erase",
        handler=Http(lambda web: web.operator.erase),
        tag="actions",
        summary="Erase a session with all retries of its photo",
        parameters=("session_id",),
        security=OPERATOR,
        answers={200: Answer(text="Erased.", body=Done)},
        errors=_SESSION_ERRORS,
    ),
    Operation(
        method="GET",
        path=operator.OPENAPI,
        name="operator_openapi",
        handler=Http(lambda web: web.operator.openapi),
        tag="live",
        summary="Read this document",
        security=OPERATOR,
        answers={200: Answer(text="OpenAPI 3.1.", media="application/json")},
        errors=_ACCESS_ERRORS,
    ),
)
