"""What a program left, made into a result. Everything it left is hostile: whatever it is, there is a result."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from pydantic import JsonValue, ValidationError
from pydantic_core import from_json

from enclave.backends.base import Collected, Exit
from enclave.contracts.audit import SessionFailed
from enclave.contracts.sessions import MAX_RESULT_BYTES, Session, SessionResult
from enclave.core.session import Finished, Lost
from enclave.core.weight import weight

MAX_DEPTH: Final = 100
"""How deep a value may be nested; parsers, those of our clients among them, refuse 200 with what is around it."""


MAX_WEIGHT: Final = 200_000
"""How many elements a value may have, an array or object counted as four: what parsing one may take of everybody."""


@dataclass(frozen=True, slots=True)
class Printed:
    """All that was kept of stdout and stderr."""

    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Loss:
    """Why the platform could not run a session to its end."""

    reason: Literal["launch_failed", "sandbox_lost", "platform_restart", "clone_failed"]
    detail: str


_NOTHING: Final = Collected()


def finished(end: Exit, printed: Printed, left: Collected = _NOTHING) -> Finished:
    """The outcome of a program that ended."""
    result = _result(end, printed).model_copy(update={"files": left.files, "files_omitted": dict(left.omitted)})
    return Finished(result, end.kill_reason, end.value if result.result_error is None else None)


def cut_short(end: Exit, printed: Printed, error: str | None = None) -> SessionResult:
    """The result of a program that the platform ended: what it had left until then."""
    return _result(replace(end, code=None, signal=None), printed).model_copy(update={"error": error})


def lost(session: Session, loss: Loss, at: datetime, result: SessionResult) -> Lost:
    """The outcome of a session that the platform failed to run."""
    event = SessionFailed(
        ts=at,
        org_id=session.org_id,
        session_id=session.id,
        actor="platform",
        reason=loss.reason,
        detail=loss.detail,
    )
    return Lost(event, result)


def _result(end: Exit, printed: Printed) -> SessionResult:
    value, refusal = _value(end)
    try:
        return _filled(end, printed, value, refusal)
    except ValidationError:
        return _filled(end, printed, None, "the value has a number that JSON cannot carry")


def _filled(end: Exit, printed: Printed, value: JsonValue, refusal: str | None) -> SessionResult:
    return SessionResult(
        exit_code=end.code,
        signal=end.signal,
        result=value,
        result_error=refusal,
        stdout=printed.stdout,
        stderr=printed.stderr,
        stdout_truncated="stdout" in end.output_dropped,
        stderr_truncated="stderr" in end.output_dropped,
        duration_ms=round(end.duration_seconds * 1000, 3),
        usage=end.usage,
    )


def _value(end: Exit) -> tuple[JsonValue, str | None]:
    if end.value is None:
        return None, end.value_error
    if len(end.value) > MAX_RESULT_BYTES:
        return None, f"the value is larger than {MAX_RESULT_BYTES} bytes"
    return _parsed(end.value)


def _parsed(raw: bytes) -> tuple[JsonValue, str | None]:
    if weight(raw, MAX_WEIGHT) > MAX_WEIGHT:
        return None, f"the value has more than {MAX_WEIGHT} elements"
    try:
        value: JsonValue = from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except (ValueError, RecursionError):
        return None, "the value is not JSON"
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        return None, f"the value is nested deeper than {MAX_DEPTH}"
    return value, None


def _depth(value: JsonValue) -> int:
    level, depth = [value], 0
    while level := [child for parent in level for child in _children(parent)]:
        depth += 1
    return depth


def _children(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, dict):
        return list(value.values()) or [None]
    return (value or [None]) if isinstance(value, list) else []
