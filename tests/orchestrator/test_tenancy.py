"""Quotas and policies, held against every session that is asked for."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from enclave.backends.base import Egress, Exit, Invocation
from enclave.contracts.audit import (
    EgressClosed,
    KeyRevoked,
    OrgDisabled,
    OrgEnabled,
    OrgPolicyChanged,
    OrgTermsChanged,
    QuotaRefused,
    SessionTornDown,
)
from enclave.contracts.bindings import Injection, PutBinding
from enclave.contracts.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PolicyForbids,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from enclave.contracts.frames import AuditFrame
from enclave.contracts.identity import Principal, Role
from enclave.contracts.policy import EgressMode, EgressPolicy, RequestedLimits
from enclave.contracts.sessions import CreateSessionRequest, Phase, Session, Usage
from enclave.contracts.tenancy import OrgPolicy, OrgTerms, OrgUsage, Quotas
from enclave.core.audit import verify
from enclave.orchestrator.orchestrator import Orchestrator
from tests.orchestrator.conftest import Stage, member, orchestrator_of
from tests.orchestrator.test_files import leaves
from tests.scripted import Puppet

pytestmark = pytest.mark.anyio

ME, OTHER = member(), member("org_b")
PROGRAM = CreateSessionRequest(code="pass")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
WAIT = 10.0


@dataclass
class Clock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def orchestrator(stage: Stage, clock: Clock) -> Orchestrator:
    """On the stage's store, at a time that the test says."""
    stage.orchestrator = orchestrator_of(stage.store, replace(stage.ports, clock=clock))
    return stage.orchestrator


async def grant(orchestrator: Orchestrator, org_id: str = "org_a", **quotas: Any) -> None:
    await orchestrator.tenancy.put_terms(org_id, OrgTerms(quotas=Quotas(**quotas)))


async def refused(asked: Awaitable[object]) -> tuple[str | None, float | None]:
    with pytest.raises(QuotaExceeded) as error:
        await asked
    return error.value.quota, error.value.retry_after


async def run(orchestrator: Orchestrator, who: Principal = ME) -> Session:
    return await orchestrator.create(who, PROGRAM, wait_seconds=WAIT)


async def running(orchestrator: Orchestrator, who: Principal = ME) -> Session:
    session = await orchestrator.create(who, PROGRAM)
    while session.phase is Phase.PENDING:
        await asyncio.sleep(0.001)
        session = await orchestrator.get(who, session.id)
    return session


def uses(cpu_seconds: float = 0.0, *told: Egress | Invocation) -> Any:
    def play(puppet: Puppet) -> None:
        for one in told:
            puppet.tell(one)
        puppet.end(Exit(code=0, usage=Usage(cpu_seconds=cpu_seconds)))

    return play


def figures(usage: OrgUsage) -> dict[str, tuple[float, float | None]]:
    return {name: (meter.used, meter.limit) for name, meter in usage if name != "resets_at"}


@pytest.mark.parametrize("bindings", [(), ("crm",)], ids=["at once", "after a read of the database"])
async def test_of_many_at_once_exactly_as_many_run_as_the_quota_says(
    orchestrator: Orchestrator, stage: Stage, bindings: tuple[str, ...]
) -> None:
    await grant(orchestrator, concurrent_sessions=5)
    crm = PutBinding(url="https://api.example.org", inject=Injection(kind="bearer"), secret=SecretStr("secret"))
    await orchestrator.bindings.put(ME, "crm", crm)
    asked = PROGRAM.model_copy(update={"service_bindings": bindings})

    answers = await asyncio.gather(*(orchestrator.create(ME, asked) for _ in range(50)), return_exceptions=True)

    assert Counter(type(answer) for answer in answers) == {Session: 5, QuotaExceeded: 45}
    assert {(one.quota, one.retry_after) for one in answers if isinstance(one, QuotaExceeded)} == {
        ("concurrentSessions", 1.0)
    }
    await running(orchestrator, OTHER)
    assert len(stage.backend.all) == 6


async def test_a_session_counts_until_its_end_is_answered_and_no_longer(
    orchestrator: Orchestrator, stage: Stage
) -> None:
    """Whoever runs one after another needs a quota of one."""
    await grant(orchestrator, concurrent_sessions=1)
    stage.backend.play = uses()
    for _ in range(20):
        assert (await run(orchestrator)).phase is Phase.SUCCEEDED
    stage.backend.play = lambda _: None
    held = await orchestrator.create(ME, PROGRAM)
    assert (await refused(run(orchestrator)))[0] == "concurrentSessions"
    await orchestrator.teardown(ME, held.id)
    stage.backend.play = uses()
    await run(orchestrator)


async def test_a_session_whose_end_cannot_be_written_is_let_go(orchestrator: Orchestrator, stage: Stage) -> None:
    await grant(orchestrator, concurrent_sessions=1)
    session = await running(orchestrator)
    (finished,) = [run.task for run in orchestrator._runs.values()]
    await stage.store.close()
    stage.backend.puppets[session.id].end()
    await finished

    assert figures(await orchestrator.tenancy.usage(ME))["concurrent_sessions"] == (0, 1)


async def test_creates_are_counted_in_a_window_that_slides(
    orchestrator: Orchestrator, stage: Stage, clock: Clock
) -> None:
    await grant(orchestrator, creates_per_minute=3)
    stage.backend.play = uses()
    for _ in range(3):
        await run(orchestrator)
        clock.later(seconds=10)

    assert await refused(run(orchestrator)) == ("createsPerMinute", 30.0)
    clock.later(seconds=29.5)
    assert await refused(run(orchestrator)) == ("createsPerMinute", 0.5)
    clock.later(seconds=0.5)
    await run(orchestrator)
    assert await refused(run(orchestrator)) == ("createsPerMinute", 10.0)
    await run(orchestrator, OTHER)
    clock.later(hours=-1)
    await run(orchestrator)


async def test_a_quota_that_is_lowered_counts_what_was_before_and_says_how_long(
    orchestrator: Orchestrator, stage: Stage, clock: Clock
) -> None:
    stage.backend.play = uses()
    for _ in range(4):
        await run(orchestrator)
        clock.later(seconds=10)

    await grant(orchestrator, creates_per_minute=2)
    assert await refused(run(orchestrator)) == ("createsPerMinute", 40.0)
    await grant(orchestrator, creates_per_minute=0)
    assert await refused(run(orchestrator)) == ("createsPerMinute", 60.0)


async def test_what_is_refused_for_another_reason_uses_nothing_up(orchestrator: Orchestrator, stage: Stage) -> None:
    await grant(orchestrator, creates_per_minute=1)
    stage.backend.play = uses()
    for _ in range(3):
        with pytest.raises(InvalidRequest):
            await orchestrator.create(ME, PROGRAM.model_copy(update={"limits": RequestedLimits(pids=1)}))
    await run(orchestrator)


async def test_cpu_seconds_are_of_a_day(orchestrator: Orchestrator, stage: Stage, clock: Clock) -> None:
    await grant(orchestrator, cpu_seconds_per_day=2.5)
    stage.backend.play = uses(1.25)
    await run(orchestrator)
    await run(orchestrator)

    assert await refused(run(orchestrator)) == ("cpuSecondsPerDay", 12 * 3600.0)
    assert figures(await orchestrator.tenancy.usage(ME))["cpu_seconds_per_day"] == (2.5, 2.5)
    await run(orchestrator, OTHER)
    clock.later(hours=11, minutes=59, seconds=59.5)
    assert await refused(run(orchestrator)) == ("cpuSecondsPerDay", 1.0)
    clock.later(seconds=0.5)
    await run(orchestrator)
    assert figures(await orchestrator.tenancy.usage(ME))["cpu_seconds_per_day"] == (1.25, 2.5)


async def test_bytes_of_connections_and_of_bindings_are_of_a_day(orchestrator: Orchestrator, stage: Stage) -> None:
    await grant(orchestrator, egress_bytes_per_day=142)
    closed = Egress(verdict="closed", target="192.0.2.1", port=443, sent_bytes=30, received_bytes=12)
    called = Invocation(
        binding="crm", method="GET", path="/", status=200, sent_bytes=60, received_bytes=40, seconds=0.1
    )
    stage.backend.play = uses(0.0, closed, called)
    await run(orchestrator)

    assert await refused(run(orchestrator)) == ("egressBytesPerDay", 12 * 3600.0)
    assert figures(await orchestrator.tenancy.usage(ME))["egress_bytes_per_day"] == (142, 142)


async def test_what_is_used_is_counted_while_the_session_runs(orchestrator: Orchestrator, stage: Stage) -> None:
    session = await running(orchestrator)
    stage.backend.puppets[session.id].tell(Egress(verdict="closed", target="192.0.2.1", sent_bytes=5))
    async for _, frame in await orchestrator.follow(ME, session.id):
        if isinstance(frame, AuditFrame) and isinstance(frame.event, EgressClosed):
            break

    assert figures(await orchestrator.tenancy.usage(ME)) == {
        "concurrent_sessions": (1, None),
        "creates_per_minute": (1, None),
        "cpu_seconds_per_day": (0, None),
        "egress_bytes_per_day": (5, None),
        "stored_bytes": (0, None),
    }


async def test_files_count_until_they_are_removed(orchestrator: Orchestrator, stage: Stage) -> None:
    await grant(orchestrator, stored_bytes=10)
    stage.backend.play = leaves({"a": b"12345", "b/c": b"678"})
    first = await run(orchestrator)
    second = await run(orchestrator)

    assert await refused(run(orchestrator)) == ("storedBytes", 60.0)
    await run(orchestrator, OTHER)
    await orchestrator.teardown(ME, first.id)
    await orchestrator.teardown(ME, second.id)
    assert figures(await orchestrator.tenancy.usage(ME))["stored_bytes"] == (0, 10)
    await run(orchestrator)


async def test_all_of_it_is_known_again_after_a_restart(orchestrator: Orchestrator, stage: Stage, clock: Clock) -> None:
    await grant(orchestrator, "default", cpu_seconds_per_day=100.0)
    await orchestrator.tenancy.put_policy(ME, OrgPolicy(templates=()))
    stage.backend.play = leaves({"a": b"12345"})
    await run(orchestrator)
    stage.backend.play = uses(1.5, Egress(verdict="closed", target="192.0.2.1", sent_bytes=30))
    await run(orchestrator)
    before = figures(await orchestrator.tenancy.usage(ME))

    again = orchestrator_of(stage.store, replace(stage.another()._ports, clock=clock))
    assert figures(await again.tenancy.usage(ME)) == before | {"creates_per_minute": (0, None)}
    assert (await again.tenancy.policy(ME)).own == OrgPolicy(templates=())


async def test_an_org_that_is_not_asked_for_is_let_go_and_read_again(
    orchestrator: Orchestrator, stage: Stage, clock: Clock
) -> None:
    await grant(orchestrator, cpu_seconds_per_day=100.0)
    stage.backend.play = uses(1.5)
    await run(orchestrator)
    before = await orchestrator.tenancy.account("org_a")
    await orchestrator.tenancy.tick()
    assert await orchestrator.tenancy.account("org_a") is before
    clock.later(minutes=11)
    await orchestrator.tenancy.tick()

    assert await orchestrator.tenancy.account("org_a") is not before
    assert figures(await orchestrator.tenancy.usage(ME))["cpu_seconds_per_day"] == (1.5, 100)


async def test_refusals_are_told_as_one_for_each_org_and_quota(
    orchestrator: Orchestrator, stage: Stage, clock: Clock
) -> None:
    await grant(orchestrator, creates_per_minute=0)
    await grant(orchestrator, "org_b", concurrent_sessions=0)
    for who in (ME, ME, ME, OTHER):
        await refused(run(orchestrator, who))
    await orchestrator.tick()
    await orchestrator.tick()
    clock.later(minutes=1)
    await refused(run(orchestrator))
    await orchestrator.close()

    told = {
        org_id: [
            (event.quota, event.count) for event in await stage.store.chain(org_id) if isinstance(event, QuotaRefused)
        ]
        for org_id in ("org_a", "org_b")
    }
    assert told == {
        "org_a": [("createsPerMinute", 3), ("createsPerMinute", 1)],
        "org_b": [("concurrentSessions", 1)],
    }


async def test_refusals_that_cannot_be_told_wait(
    orchestrator: Orchestrator, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grant(orchestrator, creates_per_minute=0)
    await refused(run(orchestrator))

    def full(*_: object) -> Awaitable[Any]:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(stage.store, "note", full)
        with pytest.raises(Unavailable):
            await orchestrator.tick()
    await orchestrator.tick()

    assert [event.count for event in await stage.store.chain("org_a") if isinstance(event, QuotaRefused)] == [1]


async def test_a_floor_bounds_limits_as_the_ceiling_does(orchestrator: Orchestrator, stage: Stage) -> None:
    stage.backend.play = uses()
    floor = OrgPolicy(limits=RequestedLimits(memory_mib=128, pids=32))
    await orchestrator.tenancy.put_terms("org_a", OrgTerms(floor=floor))
    await orchestrator.tenancy.put_policy(ME, OrgPolicy(limits=RequestedLimits(memory_mib=64)))

    limits = (await run(orchestrator)).limits
    assert (limits.memory_mib, limits.pids, limits.disk_mib) == (64, 32, 64)
    with pytest.raises(InvalidRequest) as error:
        await orchestrator.create(ME, PROGRAM.model_copy(update={"limits": RequestedLimits(memory_mib=65)}))
    assert [(one.field, one.message) for one in error.value.errors] == [
        ("limits.memoryMiB", "must be between 16 and 64")
    ]


async def test_what_both_deny_is_in_force_and_shown(orchestrator: Orchestrator, stage: Stage) -> None:
    stage.backend.play = uses()
    await orchestrator.tenancy.put_terms("org_a", OrgTerms(floor=OrgPolicy(deny=("a.test",))))
    await orchestrator.tenancy.put_policy(ME, OrgPolicy(deny=("b.test",)))
    egress = EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("c.test",), deny=("d.test",))

    session = await orchestrator.create(ME, PROGRAM.model_copy(update={"egress": egress}), wait_seconds=WAIT)
    assert session.egress.deny == stage.backend.all[0].spec.egress.deny == ("d.test", "a.test", "b.test")
    assert (await stage.store.get("org_a", session.id)).egress == session.egress
    assert (await run(orchestrator)).egress == EgressPolicy()


async def test_a_floor_that_is_narrowed_later_narrows_what_the_org_had(
    orchestrator: Orchestrator, stage: Stage
) -> None:
    stage.backend.play = uses()
    asked = PROGRAM.model_copy(update={"egress": EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("a.example.test",))})
    await orchestrator.tenancy.put_policy(ME, OrgPolicy(egress=("*.example.test",)))
    await orchestrator.create(ME, asked, wait_seconds=WAIT)
    await orchestrator.tenancy.put_terms("default", OrgTerms(floor=OrgPolicy(egress=("b.example.test",))))

    with pytest.raises(PolicyForbids) as error:
        await orchestrator.create(ME, asked)
    assert [one.field for one in error.value.errors] == ["egress.allow.0"]
    view = await orchestrator.tenancy.policy(ME)
    assert (view.own.egress, view.effective.egress) == (("*.example.test",), ("b.example.test",))
    with pytest.raises(PolicyForbids):
        await orchestrator.tenancy.put_policy(ME, view.own)


async def test_terms_and_policies_are_told_and_default_in_no_chain(orchestrator: Orchestrator, stage: Stage) -> None:
    terms, policy = OrgTerms(quotas=Quotas(stored_bytes=1)), OrgPolicy(backends=("puppet",))
    await orchestrator.tenancy.put_terms("default", OrgTerms())
    await orchestrator.tenancy.put_terms("org_a", terms)
    await orchestrator.tenancy.put_policy(ME, policy)

    chain = await stage.store.chain("org_a")
    assert [(type(event), event.actor) for event in chain] == [
        (OrgTermsChanged, "operator"),
        (OrgPolicyChanged, ME.user_id),
    ]
    assert isinstance(chain[0], OrgTermsChanged)
    assert isinstance(chain[1], OrgPolicyChanged)
    assert (chain[0].terms, chain[1].policy, verify(chain)) == (terms, policy, None)
    assert await stage.store.chain("default") == []


async def test_an_org_that_was_given_terms_is_not_touched_by_the_default(orchestrator: Orchestrator) -> None:
    mine, all_others = OrgTerms(quotas=Quotas(stored_bytes=1)), OrgTerms(quotas=Quotas(stored_bytes=2))
    await orchestrator.tenancy.put_terms("org_a", mine)
    assert await orchestrator.tenancy.put_terms("default", all_others) == all_others

    assert await orchestrator.tenancy.terms_of("org_a") == mine
    assert await orchestrator.tenancy.terms_of("org_b") == await orchestrator.tenancy.terms_of("default") == all_others


@pytest.mark.parametrize("org_id", ["", "a/b", "x" * 65, "org a", "org\n", "é", "a\0"])
async def test_what_no_org_can_be_called_is_not_found(orchestrator: Orchestrator, org_id: str) -> None:
    for asked in (orchestrator.tenancy.terms_of(org_id), orchestrator.tenancy.usage_of(org_id)):
        with pytest.raises(NotFound):
            await asked
    with pytest.raises(NotFound):
        await orchestrator.tenancy.put_terms(org_id, OrgTerms())
    with pytest.raises(NotFound):
        await orchestrator.tenancy.usage_of("default")


async def test_only_who_may_write_a_policy_does(orchestrator: Orchestrator) -> None:
    for role in (Role.DEVELOPER, Role.VIEWER, Role.AUDITOR):
        with pytest.raises(Forbidden):
            await orchestrator.tenancy.put_policy(member(role=role), OrgPolicy())
        await orchestrator.tenancy.policy(member(role=role))
        await orchestrator.tenancy.usage(member(role=role))


async def test_a_store_that_cannot_be_read_lets_nobody_in(orchestrator: Orchestrator, stage: Stage) -> None:
    await stage.store.close()

    with pytest.raises((Unavailable, RuntimeError)):
        await run(orchestrator)
    assert stage.backend.all == []


async def test_what_was_written_is_in_force_though_who_asked_for_it_has_gone(
    orchestrator: Orchestrator, stage: Stage
) -> None:
    terms, policy = OrgTerms(quotas=Quotas(stored_bytes=1)), OrgPolicy(templates=())
    await orchestrator.tenancy.account("org_a")
    asked = [
        asyncio.create_task(orchestrator.tenancy.put_terms("org_a", terms)),
        asyncio.create_task(orchestrator.tenancy.put_policy(ME, policy)),
    ]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await stage.store.note("later", disabled())  # what was queued before it is written

    assert [task.cancelled() for task in asked] == [True, True]
    assert await orchestrator.tenancy.terms_of("org_a") == terms
    assert (await orchestrator.tenancy.policy(ME)).own == policy


def disabled(org_id: str = "org_a") -> OrgDisabled:
    return OrgDisabled(ts=NOON, org_id=org_id, actor="operator")


async def test_what_a_disabled_org_runs_is_torn_down_and_nothing_else(orchestrator: Orchestrator, stage: Stage) -> None:
    mine = [await orchestrator.create(ME, PROGRAM) for _ in range(3)]
    theirs = await orchestrator.create(OTHER, PROGRAM)

    await orchestrator.note("key", disabled())

    for session in mine:
        assert (await stage.store.get("org_a", session.id)).phase is Phase.TORN_DOWN
        (torn,) = [one for one in await stage.store.trail("org_a", session.id) if isinstance(one, SessionTornDown)]
        assert torn.actor == "operator"
    assert list(stage.backend.puppets) == [theirs.id]
    assert OrgDisabled in map(type, await stage.store.chain("org_a"))


async def test_no_session_slips_in_of_an_org_that_is_being_disabled(orchestrator: Orchestrator, stage: Stage) -> None:
    """Their callers were known before, and their requests are on the way."""
    await orchestrator.tenancy.account("org_a")
    asked = [asyncio.create_task(orchestrator.create(ME, PROGRAM)) for _ in range(20)]
    await orchestrator.note("key", disabled())
    asked += [asyncio.create_task(orchestrator.create(ME, PROGRAM))]
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert isinstance(answers[-1], Unauthenticated)
    assert {type(answer) for answer in answers} <= {Session, Unauthenticated}
    assert list(stage.backend.puppets) == []
    await orchestrator.create(OTHER, PROGRAM)
    await orchestrator.note("other", OrgEnabled(ts=NOON, org_id="org_a", actor="operator"))
    await orchestrator.create(ME, PROGRAM)


async def test_an_org_is_disabled_once_more_if_that_was_noted_before(orchestrator: Orchestrator, stage: Stage) -> None:
    """As after a stop of the platform between the note and what follows from it."""
    await stage.store.note("key", disabled())
    session = await orchestrator.create(ME, PROGRAM)

    with pytest.raises(Conflict):
        await orchestrator.note("key", disabled())
    assert (await stage.store.get("org_a", session.id)).phase is Phase.TORN_DOWN


async def test_other_events_are_only_noted(orchestrator: Orchestrator, stage: Stage) -> None:
    session = await orchestrator.create(ME, PROGRAM)
    sealed = await orchestrator.note("key", KeyRevoked(ts=NOON, org_id="org_a", actor="x", key_id="k"))

    assert sealed.digest
    assert (await orchestrator.get(ME, session.id)).phase is not Phase.TORN_DOWN
