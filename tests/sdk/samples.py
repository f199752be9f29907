"""Values that a server might send."""

from datetime import UTC, datetime
from typing import Any

from enclave.contracts.audit import SandboxStarted, SessionTornDown
from enclave.contracts.frames import EndFrame, PhaseFrame, ResultFrame, StderrFrame, StdoutFrame
from enclave.contracts.logs import LogEntry
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session, SessionResult

ID = "ses_0123456789abcdefghijklmnop"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
RESULT = SessionResult(exit_code=0, result={"ok": True}, stdout="hi\n")


def session(**changes: Any) -> Session:
    """A pending session, changed."""
    pending = Session(
        id=ID,
        org_id="org_1",
        created_by="key_1",
        phase=Phase.PENDING,
        language=Language.PYTHON,
        limits=SessionLimits(),
        egress=EgressPolicy(),
        backend="local",
        created_at=NOW,
    )
    return pending.model_copy(update=changes)


DONE = session(phase=Phase.SUCCEEDED, result=RESULT, started_at=NOW, finished_at=NOW)

RUNNING = PhaseFrame(phase=Phase.RUNNING, ts=NOW)
HI = StdoutFrame(chunk="hi\n", ts=NOW)
OH = StderrFrame(chunk="oh\n", ts=NOW)
PRINTED = LogEntry(channel="stdout", text="hi\n", offset=0, ts=NOW)
GRUMBLED = LogEntry(channel="stderr", text="oh\n", offset=0, ts=NOW)
RESULTED = ResultFrame(result=RESULT, ts=NOW)
END = EndFrame(phase=Phase.SUCCEEDED, ts=NOW)

STARTED = SandboxStarted(ts=NOW, org_id="org_1", session_id=ID, actor="system", backend="local", seq=2)
TORN_DOWN = SessionTornDown(ts=NOW, org_id="org_1", session_id=ID, actor="key_1", was=Phase.SUCCEEDED, seq=3)
