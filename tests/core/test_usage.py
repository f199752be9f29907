"""What a change uses of its org's day."""

from datetime import UTC, datetime, timedelta, timezone

from enclave.contracts.audit import EgressClosed, ServiceBindingInvoked
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.contracts.sessions import Usage as Consumed
from enclave.core.session import Finished, Started, TornDown, advance, created, noted
from enclave.core.usage import Used, used_by

AT = datetime(2026, 1, 2, 23, 59, tzinfo=UTC)
SESSION = Session(
    id=f"ses_{1:026d}", org_id="org_a", created_by="k", phase=Phase.PENDING, language=Language.PYTHON,
    limits=SessionLimits(), egress=EgressPolicy(), backend="local", created_at=AT,
)  # fmt: skip
RESULT = SessionResult(exit_code=0, usage=Consumed(cpu_seconds=1.5))
STAMP = {"ts": AT, "org_id": "org_a", "session_id": SESSION.id, "actor": "k"}


def test_a_session_counts_once_when_it_ends_by_itself_or_is_stopped() -> None:
    running = advance(SESSION, Started("local"), at=AT, actor="x")
    finished = advance(running.session, Finished(RESULT), at=AT, actor="x")
    stopped = advance(running.session, TornDown(RESULT), at=AT, actor="x")
    unknown = advance(running.session, Finished(SessionResult(exit_code=0)), at=AT, actor="x")

    assert used_by(finished) == used_by(stopped) == Used(AT.date(), 1.5, 0)
    for nothing in (created(SESSION, "x"), running, unknown, advance(finished.session, TornDown(), at=AT, actor="x")):
        assert not used_by(nothing)


def test_bytes_count_as_they_are_told_those_of_bindings_too() -> None:
    running = advance(SESSION, Started("local"), at=AT, actor="x").session
    amounts = {"sent_bytes": 30, "received_bytes": 12, "duration_ms": 1.0, "count": 7}
    closed = EgressClosed.model_validate(STAMP | amounts | {"target": "t", "name": None, "rule": None, "reason": ""})
    call = {"binding": "crm", "method": "GET", "path": "/", "status": 200, "error": None}

    assert used_by(noted(running, closed)) == Used(AT.date(), 0.0, 42)
    invoked = ServiceBindingInvoked.model_validate(STAMP | amounts | call)
    assert used_by(noted(running, invoked)) == Used(AT.date(), 0.0, 42)


def test_days_are_of_utc() -> None:
    east = AT.astimezone(timezone(timedelta(hours=9)))
    running = advance(SESSION, Started("local"), at=AT, actor="x").session

    assert used_by(advance(running, Finished(RESULT), at=east, actor="x")).day == AT.date()


def test_a_new_day_begins_with_nothing_and_an_old_one_adds_nothing_to_it() -> None:
    day, next_day = AT.date(), AT.date() + timedelta(days=1)
    used = Used(day, 1.0, 10)

    assert used.plus(Used(day, 0.5, 5)) == Used(day, 1.5, 15)
    assert used.plus(Used(next_day, 0.5, 5)) == Used(next_day, 0.5, 5)
    assert Used(next_day, 1.0, 1).plus(used) == Used(next_day, 1.0, 1)
    assert used.on(next_day) == Used(next_day)
    assert used.on(day) == used.on(day - timedelta(days=1)) == used
