"""Logs, and the request id that ties their lines together.

A log line is built in one place and carries fields: the text form reads as the
documentation shows it, the JSON form has the same fields. Tokens, tickets and
signatures never get here; session ids and the first characters of hashes do.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any, Final

request_id: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""Id of the HTTP request, or of the upload whose session a worker runs."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id", "color_message"}


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


_BIDI: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Marks, embeddings, overrides and isolates that turn text around (Unicode UAX 9)."""

_CONTROL: Final = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *_BIDI)
"""Characters that could begin a line, colour it or show it in another order: C0, DEL,
C1, line and paragraph separators, bidirectional controls. A request's path may hold any
of them.
"""

_IN_TEXT: Final = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROL}
_IN_TRACE: Final = _IN_TEXT | {ord("\n"): "\n  "}
"""Indents the lines of a stack trace, so that no error's message forges a log line."""
_IN_JSON: Final = {code: f"\\u{code:04x}" for code in _CONTROL}
"""json.dumps has escaped C0; the others may stand inside strings alone, where this is
the same character.
"""


class TextFormatter(logging.Formatter):
    """Lines like ``09:00:00.123 INFO    Created session …``.

    The request id is appended where the message does not begin with it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, with its stack trace below."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{at}.{int(record.msecs):03d} {record.levelname:<7} {record.getMessage().translate(_IN_TEXT)}"
        rid = getattr(record, "request_id", None)
        if rid and f"[{rid}]" not in line:
            line += f" (request {rid})"
        if record.exc_info:
            line += "\n  " + self.formatException(record.exc_info).translate(_IN_TRACE)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if rid := getattr(record, "request_id", None):
            entry["request_id"] = rid
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False).translate(_IN_JSON)


def setup_logging(*, log_format: str | None, log_level: str) -> None:
    """Log everything in this process to standard error through one handler.

    A line that cannot be written is lost: a full disk, a pipe without a reader.
    """
    logging.raiseExceptions = False  # else each such line costs a trace of its loss
    chosen = log_format or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if chosen == "text" else JsonFormatter())
    handler.addFilter(_RequestId())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tryon").setLevel(log_level.upper())
