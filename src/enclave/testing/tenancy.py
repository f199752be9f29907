"""The examination of a keeper of what orgs may have and use: `await check_tenancy(make)` passes if every promise of
`enclave.store.base.Tenancy` holds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from enclave.contracts.audit import EgressClosed, Event, OrgPolicyChanged, OrgTermsChanged
from enclave.contracts.errors import StaleSession
from enclave.contracts.policy import EgressPolicy, Language, RequestedLimits, SessionLimits
from enclave.contracts.sessions import Phase, Session, SessionResult, Usage
from enclave.contracts.tenancy import OrgPolicy, OrgTerms, Quotas
from enclave.core.audit import verify
from enclave.core.session import Change, Finished, Started, advance, created, noted
from enclave.core.usage import Used
from enclave.store.base import Standing, Store, Tenancy
from enclave.testing.promise import expect, expect_error

Make = Callable[[str], Awaitable[tuple[Store, Tenancy]]]
"""Opens the store of a name and what is beside it: empty for a new name, with what they held for an old one."""

AT: Final = datetime(2026, 1, 2, 23, 59, 58, 678901, tzinfo=UTC)
DAY: Final = AT.date()
POLICY: Final = OrgPolicy(
    limits=RequestedLimits(memory_mib=64), egress=(), deny=("a.example",), templates=("t",), backends=()
)
TERMS: Final = OrgTerms(floor=POLICY, quotas=Quotas(creates_per_minute=7, cpu_seconds_per_day=1.5))


async def check_tenancy(make: Make) -> None:
    """Hold it against every promise; raises AssertionError, which names the first that is broken."""
    for name, promise in PROMISES.items():
        async with _opened(make, name) as (store, tenancy):
            await promise(store, tenancy)
    await _keeps_what_it_closed_with(make)


async def _knows_nothing_of_what_it_was_not_told(_: Store, tenancy: Tenancy) -> None:
    expect(OrgTerms(), await tenancy.default(), "there are terms for those that were given none")
    expect(Standing(None, OrgPolicy(), Used(DAY)), await tenancy.standing("org_a", DAY), "a new org has used nothing")


async def _returns_what_was_put(_: Store, tenancy: Tenancy) -> None:
    await tenancy.put_terms(terms_changed(OrgTerms()))
    await tenancy.put_terms(terms_changed(TERMS))
    await tenancy.put_policy(policy_changed(POLICY))
    expect(Standing(TERMS, POLICY, Used(DAY)), await tenancy.standing("org_a", DAY), "what was put last is there")
    expect(Standing(None, OrgPolicy(), Used(DAY)), await tenancy.standing("org_b", DAY), "it is of one org")
    expect(OrgTerms(), await tenancy.default(), "it is of no other")


async def _keeps_terms_of_those_that_have_none(store: Store, tenancy: Tenancy) -> None:
    await tenancy.put_default(TERMS)
    expect(TERMS, await tenancy.default(), "the terms of those that have none are kept")
    expect(None, (await tenancy.standing("org_a", DAY)).terms, "they are given to nobody as their own")
    expect([], list(await store.chain("default")), "they are told in no chain")


async def _leaves_an_event_of_each_write(store: Store, tenancy: Tenancy) -> None:
    terms, first, second = terms_changed(TERMS), policy_changed(POLICY), policy_changed(OrgPolicy())
    await asyncio.gather(tenancy.put_terms(terms), tenancy.put_policy(first), tenancy.put_policy(second))
    given: list[Event] = [terms, first, second]
    chain = await store.chain("org_a")
    told = [event.model_dump(exclude={"seq", "previous", "digest"}) for event in chain]
    expect([event.model_dump(exclude={"seq", "previous", "digest"}) for event in given], told, "each write is told")
    expect(None, verify(chain), "the chain holds")


async def _adds_up_what_sessions_use(store: Store, tenancy: Tenancy) -> None:
    await asyncio.gather(*(ran(store, number) for number in range(3)))
    await ran(store, 7, org_id="org_b")
    expect(Used(DAY, 4.5, 126), (await tenancy.standing("org_a", DAY)).used, "what sessions use adds up")
    expect(Used(DAY, 1.5, 42), (await tenancy.standing("org_b", DAY)).used, "it adds up for each org")


async def _counts_each_day_apart(store: Store, tenancy: Tenancy) -> None:
    next_day = AT + timedelta(days=1)
    await ran(store, 1)
    await ran(store, 2, at=next_day)
    await ran(store, 3, at=next_day)
    expect(Used(DAY, 1.5, 42), (await tenancy.standing("org_a", DAY)).used, "a day is left alone by the next")
    used = (await tenancy.standing("org_a", next_day.date())).used
    expect(Used(next_day.date(), 3.0, 84), used, "a day begins with nothing")


async def _counts_nothing_that_was_refused(store: Store, tenancy: Tenancy) -> None:
    last = await ran(store, 1)
    await expect_error(store.commit(last), StaleSession, "a session ends once")
    expect(Used(DAY, 1.5, 42), (await tenancy.standing("org_a", DAY)).used, "what was refused used nothing")


async def _keeps_what_it_closed_with(make: Make) -> None:
    store, tenancy = await make("reopened")
    answers = [
        tenancy.put_terms(terms_changed(TERMS)),
        tenancy.put_policy(policy_changed(POLICY)),
        tenancy.put_default(TERMS),
    ]
    await ran(store, 1)
    await store.close()
    await asyncio.gather(*answers)
    async with _opened(make, "reopened") as (store, tenancy):
        kept = Standing(TERMS, POLICY, Used(DAY, 1.5, 42))
        expect(kept, await tenancy.standing("org_a", DAY), "all of it outlives its store")
        expect(TERMS, await tenancy.default(), "the terms of those that have none outlive their store")


PROMISES: Final[dict[str, Callable[[Store, Tenancy], Awaitable[None]]]] = {
    promise.__name__.strip("_"): promise
    for promise in (
        _knows_nothing_of_what_it_was_not_told,
        _returns_what_was_put,
        _keeps_terms_of_those_that_have_none,
        _leaves_an_event_of_each_write,
        _adds_up_what_sessions_use,
        _counts_each_day_apart,
        _counts_nothing_that_was_refused,
    )
}


def terms_changed(terms: OrgTerms) -> OrgTermsChanged:
    """Terms to be put."""
    return OrgTermsChanged(ts=AT, org_id="org_a", actor="operator", terms=terms)


def policy_changed(policy: OrgPolicy) -> OrgPolicyChanged:
    """A policy to be put."""
    return OrgPolicyChanged(ts=AT, org_id="org_a", actor="examiner", policy=policy)


async def ran(store: Store, number: int, *, org_id: str = "org_a", at: datetime = AT) -> Change:
    """A session that sent 30 bytes, received 12, and computed for a second and a half; the change that ended it."""
    change = created(_session(number, org_id, at), "x")
    await store.commit(change)
    change = advance(change.session, Started("examined"), at=at, actor="x")
    await store.commit(change)
    await store.commit(noted(change.session, _closed(change.session, at)))
    result = SessionResult(exit_code=0, usage=Usage(cpu_seconds=1.5))
    change = advance(change.session, Finished(result), at=at, actor="x")
    await store.commit(change)
    return change


@asynccontextmanager
async def _opened(make: Make, name: str) -> AsyncIterator[tuple[Store, Tenancy]]:
    store, tenancy = await make(name)
    try:
        yield store, tenancy
    finally:
        await store.close()


def _session(number: int, org_id: str, at: datetime) -> Session:
    return Session(
        id=f"ses_{number:026d}",
        org_id=org_id,
        created_by="examiner",
        phase=Phase.PENDING,
        language=Language.PYTHON,
        limits=SessionLimits(),
        egress=EgressPolicy(),
        backend="examined",
        created_at=at,
    )


def _closed(session: Session, at: datetime) -> EgressClosed:
    return EgressClosed(
        ts=at,
        org_id=session.org_id,
        session_id=session.id,
        actor="examiner",
        target="192.0.2.1:443",
        name=None,
        rule=None,
        reason="",
        sent_bytes=30,
        received_bytes=12,
        duration_ms=1.0,
        count=1,
    )
