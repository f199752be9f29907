"""Opaque page cursors: where a list goes on."""

import base64
import re
from collections.abc import Sequence
from typing import Final, NoReturn, TypeVar

from enclave.contracts.bindings import BINDING_NAME
from enclave.contracts.errors import FieldProblem, InvalidRequest

MAX_PAGE: Final = 200
"""The most items of one page."""

_SESSION = re.compile(r"ses_[0-9a-z]{26}\Z")
_BINDING = re.compile(BINDING_NAME)
_KEY = re.compile(r"[0-9a-z]{16}\Z")
_MEMBER = re.compile(r"[0-9A-Za-z_.@-]{1,128}\Z")
_LOG = re.compile(r"[0-9]{1,12}\.[0-9]{1,12}\Z")
_SEQ = re.compile(r"[0-9]{1,18}\Z")

T = TypeVar("T")


def session_cursor(session_id: str) -> str:
    """The cursor of the sessions older than this one."""
    return _seal(f"s:{session_id}")


def session_of(cursor: str | None) -> str | None:
    """The session a cursor stands at; raises InvalidRequest."""
    return _open(cursor, "s:", _SESSION) if cursor is not None else None


def event_cursor(seq: int) -> str:
    """The cursor of the events after this one."""
    return _seal(f"e:{seq}")


def seq_of(cursor: str | None) -> int:
    """The event a cursor stands at; raises InvalidRequest."""
    return int(_open(cursor, "e:", _SEQ)) if cursor is not None else 0


def binding_cursor(name: str) -> str:
    """The cursor of the bindings after this one."""
    return _seal(f"b:{name}")


def binding_of_cursor(cursor: str | None) -> str:
    """The binding a cursor stands at, empty for none; raises InvalidRequest."""
    return _open(cursor, "b:", _BINDING) if cursor is not None else ""


def delivery_cursor(session_id: str) -> str:
    """The cursor of the webhooks of sessions older than this one."""
    return _seal(f"d:{session_id}")


def delivery_of_cursor(cursor: str | None) -> str | None:
    """The session a cursor stands at; raises InvalidRequest."""
    return _open(cursor, "d:", _SESSION) if cursor is not None else None


def key_cursor(key_id: str) -> str:
    """The cursor of the API keys made after this one."""
    return _seal(f"k:{key_id}")


def key_of_cursor(cursor: str | None) -> str:
    """The API key a cursor stands at, empty for none; raises InvalidRequest."""
    return _open(cursor, "k:", _KEY) if cursor is not None else ""


def member_cursor(user_id: str) -> str:
    """The cursor of the members after this one."""
    return _seal(f"m:{user_id}")


def member_of_cursor(cursor: str | None) -> str:
    """The member a cursor stands at, empty for none; raises InvalidRequest."""
    return _open(cursor, "m:", _MEMBER) if cursor is not None else ""


def invitation_cursor(invitation_id: str) -> str:
    """The cursor of the invitations after this one."""
    return _seal(f"i:{invitation_id}")


def invitation_of_cursor(cursor: str | None) -> str:
    """The invitation a cursor stands at, empty for none; raises InvalidRequest."""
    return _open(cursor, "i:", _KEY) if cursor is not None else ""


def org_cursor(org_id: str) -> str:
    """The cursor of the orgs after this one."""
    return _seal(f"o:{org_id}")


def org_of_cursor(cursor: str | None) -> str:
    """The org a cursor stands at, empty for none; raises InvalidRequest."""
    return _open(cursor, "o:", _MEMBER) if cursor is not None else ""


def log_cursor(stdout: int, stderr: int) -> str:
    """The cursor of the output behind so many characters of each channel."""
    return _seal(f"l:{stdout}.{stderr}")


def log_of(cursor: str | None) -> tuple[int, int]:
    """How many characters of stdout and of stderr lie before a cursor; raises InvalidRequest."""
    stdout, _, stderr = _open(cursor, "l:", _LOG, "after").partition(".") if cursor is not None else ("0", "", "0")
    return int(stdout), int(stderr)


def check_limit(limit: int) -> None:
    """Raise InvalidRequest unless a page may have that many items."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(
            "a query parameter is out of bounds",
            errors=(FieldProblem(field="limit", message=f"must be between 1 and {MAX_PAGE}"),),
        )


def cut(found: Sequence[T], limit: int) -> tuple[Sequence[T], T | None]:
    """The page of what was found with a limit of one more, and its last item if there is more."""
    return (found[:limit], found[limit - 1]) if len(found) > limit else (found, None)


def _seal(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _open(cursor: str, kind: str, shape: re.Pattern[str], field: str = "cursor") -> str:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        refuse(field)
    place = text.removeprefix(kind)
    if place == text or not shape.fullmatch(place):
        refuse(field)
    return place


def refuse(field: str) -> NoReturn:
    """Raise InvalidRequest for a cursor that is of no page, or not of this list."""
    message = "is not a cursor of this list; use a nextCursor as it was given"
    raise InvalidRequest("the cursor is malformed", errors=(FieldProblem(field=field, message=message),))
