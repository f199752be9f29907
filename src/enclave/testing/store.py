"""The examination of a store: `await check_store(make)` passes if every promise of `enclave.store.base.Store` holds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from enclave.contracts.audit import AuditEvent, KeyRevoked
from enclave.contracts.errors import Conflict, KeyReused, NotFound, StaleSession
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.core.audit import verify
from enclave.core.claim import HELD, Claim, Claimed
from enclave.core.session import TRANSITIONS, Change, Finished, Outcome, Started, TornDown, advance, created
from enclave.store.base import Filter, Store
from enclave.testing.promise import expect, expect_error

Make = Callable[[str], Awaitable[Store]]
"""Opens the store of a name: empty for a new name, with what it held for one that was open before."""

AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
RESULT: Final = SessionResult(exit_code=0, result={"n": [1, 2.5, None, "é"]}, stdout="hi\n", duration_ms=1.25)
STARTED: Final = Started("examined")
FINISHED: Final = Finished(RESULT, result_json=b'{"n":[1,2.5,null,"\xc3\xa9"]}')
LOST: Final = "the store forgot, or made up, something"


async def check_store(make: Make) -> None:
    """Hold a store against every promise; raises AssertionError, which names the first that is broken."""
    for name, promise in PROMISES.items():
        async with _opened(make, name) as store:
            await promise(store)
    await _keeps_what_it_closed_with(make)


async def _returns_what_was_committed(store: Store) -> None:
    session = await _create(store, 1, labels={"team": "a"})
    expect(session, await store.get("org_a", session.id), LOST)
    for outcome in (STARTED, FINISHED, TornDown()):
        session = await _advance(store, session, outcome)
        expect(session, await store.get("org_a", session.id), f"a session that is {session.phase} reads as committed")


async def _answers_with_the_sealed_events(store: Store) -> None:
    change = created(_session(1), "1")
    sealed = await store.commit(change)
    expect((1,), _numbers(sealed), "a chain counts from 1")
    expect(
        change.events[0].model_dump(exclude=_PLACE), sealed[0].model_dump(exclude=_PLACE), "events are kept as given"
    )
    expect(list(sealed), list(await store.trail("org_a", change.session.id)), "the trail is what commit answered")


async def _refuses_a_stale_change(store: Store) -> None:
    session = await _create(store, 1)
    stale = advance(session, TornDown(), at=AT, actor="late")
    running = await _advance(store, session, STARTED)
    await expect_error(store.commit(stale), StaleSession, "a change is refused once its `before` is past")
    await expect_error(store.commit(created(_session(1), "2")), StaleSession, "a session is created once")
    await expect_error(store.commit(_change(_session(2), STARTED)), StaleSession, "what is not there cannot move")
    expect(running, await store.get("org_a", session.id), "a refused change leaves the session alone")
    expect((1, 2), _numbers(await store.trail("org_a", session.id)), "a refused change leaves no event")
    await expect_error(store.get("org_a", _session(2).id), NotFound, "a refused change makes no session")


async def _guards_against_every_other_phase(store: Store) -> None:
    session = await _create(store, 1)
    for before in [phase for phase in TRANSITIONS if phase is not session.phase]:
        change = Change(before, session, advance(session, STARTED, at=AT, actor="x").events)
        await expect_error(store.commit(change), StaleSession, f"a pending session is not {before}")


async def _lets_one_of_two_rivals_win(store: Store) -> None:
    session = await _create(store, 1)
    rivals = [advance(session, outcome, at=AT, actor="x") for outcome in (STARTED, TornDown())]
    answers = await asyncio.gather(*map(store.commit, rivals), return_exceptions=True)
    expect([tuple, StaleSession], [type(answer) for answer in answers], "of two rivals the first wins")
    expect(rivals[0].session, await store.get("org_a", session.id), "the winner's session is the one kept")


async def _does_not_let_one_refusal_harm_others(store: Store) -> None:
    changes = [created(_session(number), "x") for number in (1, 1, 2, 2, 3)]
    answers = await asyncio.gather(*map(store.commit, changes), return_exceptions=True)
    refused = [isinstance(answer, StaleSession) for answer in answers]
    expect([False, True, False, True, False], refused, "what is committed at once fails or holds one by one")
    expect(None, verify(await _chain(store, "org_a")), "a refusal between two changes leaves the chain whole")


async def _writes_in_the_order_of_commits(store: Store) -> None:
    session = _session(1)
    answers = [store.commit(created(session, "x"))]
    for outcome in (STARTED, FINISHED, TornDown()):
        change = advance(session, outcome, at=AT, actor="x")
        session = change.session
        answers.append(store.commit(change))
    # Awaited backwards: it is the commit that queues, not the await.
    numbers = [_numbers(await answer) for answer in reversed(answers)]
    expect([(5,), (3, 4), (2,), (1,)], numbers, "what is committed first is written first")


async def _keeps_orgs_apart(store: Store) -> None:
    mine, theirs = await _create(store, 1, "org_a"), await _create(store, 2, "org_b")
    await expect_error(store.get("org_a", theirs.id), NotFound, "another org's session is not found")
    await expect_error(store.trail("org_a", theirs.id), NotFound, "another org's trail is not found")
    expect([mine], list(await store.find("org_a", Filter())), "another org's sessions are not listed")
    taken = advance(theirs, STARTED, at=AT, actor="x").session.model_copy(update={"org_id": "org_a"})
    change = Change(Phase.PENDING, taken, advance(mine, STARTED, at=AT, actor="x").events)
    await expect_error(store.commit(change), StaleSession, "another org's session cannot be moved")
    expect(theirs, await store.get("org_b", theirs.id), "another org's session is left as it was")


async def _finds_nothing_where_nothing_is(store: Store) -> None:
    await expect_error(store.get("org_a", _session(1).id), NotFound, "a session that is not there is not found")
    await expect_error(store.trail("org_a", _session(1).id), NotFound, "its trail is not found")
    expect([], list(await store.find("org_a", Filter())), "an empty store lists nothing")
    expect([], list(await store.unsettled()), "an empty store has nothing to settle")


async def _lists_newest_first_and_page_by_page(store: Store) -> None:
    made = [await _create(store, number) for number in (2, 5, 1, 4, 3)]
    newest = sorted(made, key=lambda session: session.id, reverse=True)
    expect(newest, list(await store.find("org_a", Filter())), "sessions are listed newest first")
    expect(newest[:2], list(await store.find("org_a", Filter(), limit=2)), "no more are listed than asked for")
    page = await store.find("org_a", Filter(), before=newest[1].id, limit=2)
    expect(newest[2:4], list(page), "a page begins after its cursor")
    expect([], list(await store.find("org_a", Filter(), before=newest[-1].id)), "nothing is older than the oldest")


async def _lists_without_results(store: Store) -> None:
    session = await _finish(store, await _create(store, 1))
    bare = session.model_copy(update={"result": None})
    expect([bare], list(await store.find("org_a", Filter())), "a list leaves results out")


async def _filters_by_phase_and_labels(store: Store) -> None:
    a = await _create(store, 1, labels={"team": "a", "env": "prod"})
    b = await _create(store, 2, labels={"team": "a", "env": "test"})
    c = await _advance(store, await _create(store, 3, labels={"team": "a", "env": "prod"}), STARTED)
    await _create(store, 4, "org_b", labels={"team": "a", "env": "prod"})
    d = await _create(store, 5)
    for wanted, expected in (
        (Filter(), [d, c, b, a]),
        (Filter(phase=Phase.PENDING), [d, b, a]),
        (Filter(phase=Phase.KILLED), []),
        (Filter(labels={"team": "a"}), [c, b, a]),
        (Filter(labels={"team": "a", "env": "prod"}), [c, a]),
        (Filter(labels={"env": "test", "team": "a"}), [b]),
        (Filter(labels={"team": "prod"}), []),
        (Filter(labels={"team": "a", "absent": "a"}), []),
        (Filter(labels={"team": "' OR 1=1 --"}), []),
        (Filter(phase=Phase.RUNNING, labels={"env": "prod", "team": "a"}), [c]),
    ):
        expect(expected, list(await store.find("org_a", wanted)), f"{wanted} finds its sessions, and no other")
    page = await store.find("org_a", Filter(labels={"team": "a"}), before=c.id, limit=1)
    expect([b], list(page), "a filter and a cursor hold together")


async def _reads_a_trail_from_a_place_on(store: Store) -> None:
    first, second = await _create(store, 1), await _create(store, 2)
    first = await _finish(store, first)
    expect((1, 3, 4, 5), _numbers(await store.trail("org_a", first.id)), "a trail is one session's, oldest first")
    expect((2,), _numbers(await store.trail("org_a", second.id)), "a trail is one session's")
    expect((4, 5), _numbers(await store.trail("org_a", first.id, after=3)), "`after` leaves out its seq and all before")
    expect((3,), _numbers(await store.trail("org_a", first.id, after=1, limit=1)), "no more events than asked for")
    expect((), _numbers(await store.trail("org_a", first.id, after=5)), "the end of a trail is empty, not absent")


async def _chains_each_org_on_its_own(store: Store) -> None:
    sessions = [_session(number, "org_a" if number % 2 else "org_b") for number in range(1, 9)]
    await asyncio.gather(*(_live(store, session) for session in sessions))
    for org_id in ("org_a", "org_b"):
        chain = await _chain(store, org_id)
        expect(tuple(range(1, 21)), _numbers(chain), f"the events of {org_id} are numbered without a gap")
        expect(None, verify(chain), f"the chain of {org_id} holds across its sessions")
        expect(chain[3:5], list(await store.chain(org_id, after=3, limit=2)), "a chain is read from a place on")
    trails = [await store.trail("org_a", session.id) for session in await store.find("org_a", Filter())]
    events = sorted((event for trail in trails for event in trail), key=lambda event: event.seq)
    expect(events, await _chain(store, "org_a"), "the chain is all trails of an org, and no other's")


async def _tells_what_is_unsettled(store: Store) -> None:
    pending = await _create(store, 1, "org_a")
    running = await _advance(store, await _create(store, 2, "org_b"), STARTED)
    await _finish(store, await _create(store, 3))
    await _advance(store, await _create(store, 4), TornDown())
    found = sorted(await store.unsettled(), key=lambda session: session.id)
    expect([pending, running], found, "what is pending or running, of any org, is unsettled, and nothing else")


async def _keeps_what_it_closed_with(make: Make) -> None:
    store = await make("reopened")
    session = _session(1)
    answer = store.commit(created(session, "x"))
    await store.close()
    before = await answer
    async with _opened(make, "reopened") as store:
        expect(session, await store.get("org_a", session.id), "close writes what is queued")
        await _advance(store, session, STARTED)
        chain = await _chain(store, "org_a")
    expect(list(before), chain[:1], "a trail outlives its store")
    expect((None, (1, 2)), (verify(chain), _numbers(chain)), "the chain goes on where it ended")


async def _notes_an_event_once(store: Store) -> None:
    event = KeyRevoked(ts=AT, org_id="org_a", session_id=None, actor="examiner", key_id="k")
    await _create(store, 1)
    noted = await store.note("one", event)
    await store.note("two", event.model_copy(update={"org_id": "org_b"}))
    await expect_error(store.note("one", event), Conflict, "an event that was noted before is refused")
    expect(2, noted.seq, "what is noted is part of the org's chain")
    for org_id, length in (("org_a", 2), ("org_b", 1)):
        chain = await _chain(store, org_id)
        expect((None, length), (verify(chain), len(chain)), "a chain holds with what was noted, and has it once")


async def _takes_a_key_once(store: Store) -> None:
    claim, early = Claim("k", "d"), AT - timedelta(seconds=1)
    first, second = _session(1), _session(2)
    answers = await asyncio.gather(
        *(store.commit(replace(created(one, "x"), claim=claim)) for one in (first, second)), return_exceptions=True
    )
    expect([tuple, KeyReused], [type(answer) for answer in answers], "a key is taken once")
    await expect_error(store.get("org_a", second.id), NotFound, "who did not get the key is not there")
    expect(Claimed(first.id, "d"), await store.claimed("org_a", "k", early), "who has a key is told")
    expect(None, await store.claimed("org_a", "k", AT), "a key that was taken before is not told of")
    expect(None, await store.claimed("org_b", "k", early), "a key is an org's")
    await store.commit(replace(created(_session(3, "org_b"), "x"), claim=claim))
    later = _session(4).model_copy(update={"created_at": AT + HELD})
    await store.commit(replace(created(later, "x"), claim=claim))
    expect(Claimed(later.id, "d"), await store.claimed("org_a", "k", early), "after a day a key is free")


PROMISES: Final[dict[str, Callable[[Store], Awaitable[None]]]] = {
    promise.__name__.strip("_"): promise
    for promise in (
        _returns_what_was_committed,
        _answers_with_the_sealed_events,
        _refuses_a_stale_change,
        _guards_against_every_other_phase,
        _lets_one_of_two_rivals_win,
        _does_not_let_one_refusal_harm_others,
        _writes_in_the_order_of_commits,
        _keeps_orgs_apart,
        _finds_nothing_where_nothing_is,
        _lists_newest_first_and_page_by_page,
        _lists_without_results,
        _filters_by_phase_and_labels,
        _reads_a_trail_from_a_place_on,
        _chains_each_org_on_its_own,
        _tells_what_is_unsettled,
        _notes_an_event_once,
        _takes_a_key_once,
    )
}
_PLACE: Final = {"seq", "previous", "digest"}


@asynccontextmanager
async def _opened(make: Make, name: str) -> AsyncIterator[Store]:
    store = await make(name)
    try:
        yield store
    finally:
        await store.close()


def _session(number: int, org_id: str = "org_a", labels: dict[str, str] | None = None) -> Session:
    return Session(
        id=f"ses_{number:026d}",
        org_id=org_id,
        created_by="examiner",
        phase=Phase.PENDING,
        language=Language.PYTHON,
        limits=SessionLimits(),
        egress=EgressPolicy(),
        backend="examined",
        labels=labels or {},
        created_at=AT,
    )


def _change(session: Session, outcome: Outcome) -> Change:
    return advance(session, outcome, at=AT, actor="examiner")


async def _create(store: Store, number: int, org_id: str = "org_a", labels: dict[str, str] | None = None) -> Session:
    session = _session(number, org_id, labels)
    await store.commit(created(session, "print(1)"))
    return session


async def _advance(store: Store, session: Session, outcome: Outcome) -> Session:
    change = _change(session, outcome)
    await store.commit(change)
    return change.session


async def _finish(store: Store, session: Session) -> Session:
    return await _advance(store, await _advance(store, session, STARTED), FINISHED)


async def _live(store: Store, session: Session) -> None:
    await store.commit(created(session, "print(1)"))
    await _advance(store, await _finish(store, session), TornDown())


async def _chain(store: Store, org_id: str) -> list[AuditEvent]:
    """All events of an org, in their order."""
    return list(await store.chain(org_id))


def _numbers(events: Iterable[AuditEvent]) -> tuple[int, ...]:
    return tuple(event.seq for event in events)
