"""The life of a session, over the whole square of phases."""

import hashlib
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.contracts.audit import ResultCollected, SandboxStarted, SessionFailed, SessionTornDown, WorkloadExited
from enclave.contracts.errors import Conflict
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import KillReason, Phase, Session, SessionResult
from enclave.core.session import (
    TRANSITIONS,
    UNSETTLED,
    Finished,
    Lost,
    Outcome,
    Started,
    TornDown,
    advance,
    created,
    phase_after,
)

AT = datetime(2026, 1, 2, tzinfo=UTC)
LATER = AT + timedelta(seconds=1)
WELL = SessionResult(exit_code=0, stdout="hé", stderr="!", result=[1], duration_ms=3.5)
ILL = SessionResult(exit_code=3)
CUT = SessionResult(exit_code=None)
PENDING = Session(
    id="ses_" + "0" * 26,
    org_id="org_a",
    created_by="ada",
    phase=Phase.PENDING,
    language=Language.PYTHON,
    limits=SessionLimits(),
    egress=EgressPolicy(),
    backend="local",
    labels={"team": "a"},
    created_at=AT,
)
STAMP = {"ts": LATER, "org_id": "org_a", "session_id": PENDING.id, "actor": "them"}
FAILURE = SessionFailed(
    ts=LATER, org_id="org_a", session_id=PENDING.id, actor="them", reason="sandbox_lost", detail="gone"
)

ALLOWED = {
    ("pending", "running"),
    ("pending", "failed"),
    ("pending", "torn_down"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "killed"),
    ("running", "torn_down"),
    ("succeeded", "torn_down"),
    ("failed", "torn_down"),
    ("killed", "torn_down"),
}
LEADS_TO: dict[Phase, list[Outcome]] = {
    Phase.PENDING: [],
    Phase.RUNNING: [Started("local")],
    Phase.SUCCEEDED: [Finished(WELL)],
    Phase.FAILED: [Finished(ILL), Lost(FAILURE, CUT)],
    Phase.KILLED: [Finished(CUT, KillReason.CPU_EXCEEDED)],
    Phase.TORN_DOWN: [TornDown(), TornDown(CUT)],
}
SQUARE = [(before, after, outcome) for before in Phase for after in Phase for outcome in LEADS_TO[after]]


def in_phase(phase: Phase, **fields: object) -> Session:
    return PENDING.model_copy(update={"phase": phase, **fields})


def test_the_table_has_the_ten_moves_and_no_other() -> None:
    table = {(before.value, after.value) for before, targets in TRANSITIONS.items() for after in targets}

    assert table == ALLOWED
    assert set(TRANSITIONS) == set(Phase)


def test_the_table_has_no_cycle() -> None:
    order = list(TopologicalSorter(TRANSITIONS).static_order())

    assert set(order) == set(Phase)


def test_every_phase_can_be_reached_and_left_but_the_last() -> None:
    reached = {after for targets in TRANSITIONS.values() for after in targets}

    assert reached == set(Phase) - {Phase.PENDING}
    assert [phase for phase, targets in TRANSITIONS.items() if not targets] == [Phase.TORN_DOWN]


def test_unsettled_are_the_phases_from_which_a_program_can_still_end() -> None:
    ends = {Phase.SUCCEEDED, Phase.FAILED, Phase.KILLED}

    assert {phase for phase, targets in TRANSITIONS.items() if targets & ends} == UNSETTLED


@pytest.mark.parametrize(("before", "after", "outcome"), SQUARE)
def test_an_outcome_moves_a_session_exactly_where_the_table_lets_it(
    before: Phase, after: Phase, outcome: Outcome
) -> None:
    session = in_phase(before)

    if (before.value, after.value) in ALLOWED:
        change = advance(session, outcome, at=LATER, actor="them")
        assert (change.before, change.session.phase) == (before, after)
        assert change.events
    else:
        with pytest.raises(Conflict, match=f"{before} cannot become {after}"):
            advance(session, outcome, at=LATER, actor="them")


@pytest.mark.parametrize(("before", "after", "outcome"), [one for one in SQUARE if one[1] in TRANSITIONS[one[0]]])
def test_every_event_says_when_whose_and_by_whom(before: Phase, after: Phase, outcome: Outcome) -> None:
    for event in advance(in_phase(before), outcome, at=LATER, actor="them").events:
        assert event.model_dump(include=set(STAMP), by_alias=False) == STAMP


@given(st.integers(-300, 300) | st.none(), st.sampled_from([*KillReason, None]))
def test_a_program_succeeds_only_by_exiting_with_zero_and_unkilled(code: int | None, reason: KillReason | None) -> None:
    phase = phase_after(Finished(SessionResult(exit_code=code), reason))

    assert (phase is Phase.SUCCEEDED) == (code == 0 and reason is None)
    assert (phase is Phase.KILLED) == (reason is not None)


def test_creation_records_size_and_digest_of_the_code_but_not_the_code() -> None:
    (event,) = created(PENDING, "print('é')").events
    source = "print('é')".encode()

    assert event.model_dump(include={"code_bytes", "code_sha256", "labels", "actor"}, by_alias=False) == {
        "code_bytes": len(source),
        "code_sha256": hashlib.sha256(source).hexdigest(),
        "labels": {"team": "a"},
        "actor": "ada",
    }
    assert "print" not in event.model_dump_json()


def test_creation_has_nothing_before_it() -> None:
    change = created(PENDING, "x")

    assert (change.before, change.session) == (None, PENDING)


def test_a_start_notes_when_and_where() -> None:
    change = advance(PENDING, Started("other"), at=LATER, actor="them")

    assert change.session == in_phase(Phase.RUNNING, started_at=LATER, backend="other")
    assert change.events == (SandboxStarted.model_validate({**STAMP, "backend": "other"}),)


def test_an_end_carries_the_result_and_its_measures() -> None:
    outcome = Finished(WELL, result_json=b"[1]")
    change = advance(in_phase(Phase.RUNNING), outcome, at=LATER, actor="them")

    assert change.session == in_phase(Phase.SUCCEEDED, result=WELL, finished_at=LATER)
    assert change.events == (
        WorkloadExited.model_validate(
            {**STAMP, "exit_code": 0, "signal": None, "kill_reason": None, "duration_ms": 3.5}
        ),
        ResultCollected.model_validate(
            {
                **STAMP,
                "phase": Phase.SUCCEEDED,
                "stdout_bytes": 3,
                "stderr_bytes": 1,
                "result_bytes": 3,
                "result_sha256": hashlib.sha256(b"[1]").hexdigest(),
            }
        ),
    )


def test_a_result_that_is_none_differs_from_one_that_is_empty() -> None:
    def digest(result_json: bytes | None) -> str | None:
        change = advance(in_phase(Phase.RUNNING), Finished(WELL, result_json=result_json), at=LATER, actor="them")
        assert isinstance(change.events[-1], ResultCollected)
        return change.events[-1].result_sha256

    assert digest(None) is None
    assert digest(b"") == hashlib.sha256(b"").hexdigest()


def test_a_kill_says_why() -> None:
    outcome = Finished(CUT, KillReason.MEMORY_EXCEEDED)
    change = advance(in_phase(Phase.RUNNING), outcome, at=LATER, actor="them")

    assert change.session.kill_reason is KillReason.MEMORY_EXCEEDED
    assert isinstance(change.events[0], WorkloadExited)
    assert change.events[0].kill_reason is KillReason.MEMORY_EXCEEDED


def test_a_lost_sandbox_fails_the_session_with_the_event_given() -> None:
    change = advance(in_phase(Phase.RUNNING), Lost(FAILURE, CUT), at=LATER, actor="them")

    assert change.session == in_phase(Phase.FAILED, result=CUT, finished_at=LATER)
    assert change.events == (FAILURE,)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.TORN_DOWN])
def test_a_teardown_says_what_the_session_was(phase: Phase) -> None:
    change = advance(in_phase(phase), TornDown(), at=LATER, actor="them")

    assert change.events == (SessionTornDown.model_validate({**STAMP, "was": phase}),)


def test_a_teardown_keeps_an_earlier_end_and_its_result() -> None:
    done = in_phase(Phase.SUCCEEDED, result=WELL, finished_at=AT)

    assert advance(done, TornDown(CUT), at=LATER, actor="them").session == in_phase(
        Phase.TORN_DOWN, result=WELL, finished_at=AT
    )


def test_a_teardown_of_what_runs_is_its_end() -> None:
    running = in_phase(Phase.RUNNING)

    assert advance(running, TornDown(CUT), at=LATER, actor="them").session == in_phase(
        Phase.TORN_DOWN, result=CUT, finished_at=LATER
    )


@given(st.text(max_size=50), st.text(max_size=50))
def test_no_event_repeats_what_a_program_printed(stdout: str, stderr: str) -> None:
    marked = SessionResult(exit_code=0, stdout=f"<out>{stdout}", stderr=f"<err>{stderr}", result="<value>")
    change = advance(in_phase(Phase.RUNNING), Finished(marked, result_json=b'"<value>"'), at=LATER, actor="them")

    written = "".join(event.model_dump_json() for event in change.events)
    assert [mark for mark in ("<out>", "<err>", "<value>") if mark in written] == []
