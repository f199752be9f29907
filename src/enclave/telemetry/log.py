"""The server's log: a line for a person, or an object of JSON on a line for a machine."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from enclave.core.trace import REQUEST_ID, SESSION_ID


def open_log(style: str) -> None:
    """Write warnings, errors and what is worse to standard error from now on, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[style]())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class Text(logging.Formatter):
    """When, how bad, what; and the request and the session that it was about."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record."""
        about = "".join(f" {name}={value}" for name, value in _about().items())
        return f"{_moment(record)} {record.levelname} {super().format(record)}{about}"


class Json(logging.Formatter):
    """One object on one line, in ASCII: nothing that was logged can begin another."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        told = {
            "ts": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about(),
        }
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told)


_FORMATTERS: Final[dict[str, type[logging.Formatter]]] = {"text": Text, "json": Json}


def _about() -> dict[str, str]:
    known = {"request_id": REQUEST_ID.get(), "session_id": SESSION_ID.get()}
    return {name: value for name, value in known.items() if value is not None}


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
