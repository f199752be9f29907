"""What became of a session, in words and as a number."""

import pytest

from enclave.cli.verdict import exit_code, verdict
from enclave.contracts.sessions import KillReason, Phase, Session, SessionResult
from tests.sdk.samples import DONE, session


def _ended(code: int | None, **more: object) -> Session:
    result = SessionResult.model_validate({"exit_code": code} | more)
    return session(phase=Phase.SUCCEEDED if code == 0 else Phase.FAILED, result=result)


def _killed(reason: KillReason) -> Session:
    return session(phase=Phase.KILLED, kill_reason=reason, result=SessionResult(exit_code=None))


def _torn_down(before: Session) -> Session:
    return before.model_copy(update={"phase": Phase.TORN_DOWN})


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (DONE, 0, []),
        (_torn_down(DONE), 0, []),
        (_ended(3), 3, ["failed: exit code 3"]),
        (_ended(139, signal=11), 139, ["failed: ended by signal 11 (SIGSEGV)"]),
        (_ended(256), 1, ["failed: exit code 256"]),
        (_ended(None, error="no sandbox"), 70, ["failed: the platform could not run it to its end: no sandbox"]),
        (_torn_down(session()), 70, ["stopped: the session was torn down before it was over"]),
        (session(phase=Phase.RUNNING), 70, ["unfinished: the session is running"]),
        (_killed(KillReason.WALL_CLOCK_EXCEEDED), 124, ["killed: it ran longer than 30 s"]),
        (_killed(KillReason.CPU_EXCEEDED), 137, ["killed: it used more than 30 s of CPU time"]),
        (_killed(KillReason.MEMORY_EXCEEDED), 137, ["killed: it used more than 256 MiB of memory"]),
        (_killed(KillReason.PIDS_EXCEEDED), 137, ["killed: it started more than 64 processes and threads"]),
        (_torn_down(_killed(KillReason.PIDS_EXCEEDED)), 137, ["killed: it started more than 64 processes and threads"]),
        (
            _ended(0, result_error="not JSON", stdout_truncated=True, stderr_truncated=True),
            0,
            ["no result was taken: not JSON", "stdout is cut off at 1024 KiB", "stderr is cut off at 1024 KiB"],
        ),
    ],
)
def test_every_end_has_a_code_and_its_words(ended: Session, code: int, said: list[str]) -> None:
    assert exit_code(ended) == code
    assert list(verdict(ended)) == said
