"""What became of a session, in plain words and as an exit code."""

from collections.abc import Iterator
from signal import Signals
from typing import Final

from enclave.cli.say import PLATFORM
from enclave.contracts.policy import SessionLimits
from enclave.contracts.sessions import KillReason, Phase, Session, SessionResult

OUT_OF_TIME: Final = 124
KILLED: Final = 137


def exit_code(session: Session) -> int:
    """The program's own exit code, or ours for a program that was not let finish."""
    if session.phase is Phase.KILLED or session.kill_reason is not None:
        return OUT_OF_TIME if session.kill_reason is KillReason.WALL_CLOCK_EXCEEDED else KILLED
    code = None if session.result is None else session.result.exit_code
    if code is None:
        return PLATFORM
    return code if 0 <= code <= 255 else 1


def verdict(session: Session) -> Iterator[str]:
    """Everything worth telling of a session that is over; nothing if all went well."""
    if session.kill_reason is not None:
        yield f"killed: {_excess(session.kill_reason, session.limits)}"
    elif session.result is None or session.result.exit_code is None:
        yield _unfinished(session)
    elif session.result.exit_code != 0:
        yield f"failed: {_ending(session.result)}"
    if session.result is not None:
        yield from _losses(session.result, session.limits)


def _excess(reason: KillReason, limits: SessionLimits) -> str:
    match reason:
        case KillReason.WALL_CLOCK_EXCEEDED:
            return f"it ran longer than {limits.wall_clock_seconds:g} s"
        case KillReason.CPU_EXCEEDED:
            return f"it used more than {limits.cpu_seconds:g} s of CPU time"
        case KillReason.MEMORY_EXCEEDED:
            return f"it used more than {limits.memory_mib} MiB of memory"
        case KillReason.PIDS_EXCEEDED:
            return f"it started more than {limits.pids} processes and threads"
        case KillReason.SYSCALL_FORBIDDEN:
            return "it made a system call that only an exploit makes; its audit trail names it"


def _unfinished(session: Session) -> str:
    if session.result is not None and session.result.error is not None:
        return f"failed: the platform could not run it to its end: {session.result.error}"
    if session.phase is Phase.TORN_DOWN:
        return "stopped: the session was torn down before it was over"
    return f"unfinished: the session is {session.phase}"


def _ending(result: SessionResult) -> str:
    if result.signal is None:
        return f"exit code {result.exit_code}"
    names = {signal.value: signal.name for signal in Signals}
    return f"ended by signal {result.signal} ({names.get(result.signal, 'unnamed')})"


def _losses(result: SessionResult, limits: SessionLimits) -> Iterator[str]:
    if result.result_error is not None:
        yield f"no result was taken: {result.result_error}"
    if result.stdout_truncated:
        yield f"stdout is cut off at {limits.output_kib} KiB"
    if result.stderr_truncated:
        yield f"stderr is cut off at {limits.output_kib} KiB"
    for reason, number in result.files_omitted.items():
        yield f"not kept of `out`: {number} {reason.replace('_', ' ')}"
