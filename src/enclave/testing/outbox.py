"""The examination of what keeps webhooks: `await check_outbox(make)` passes if every promise of
`enclave.store.base.Outbox` and `enclave.store.base.Signing` holds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from enclave.contracts.errors import Conflict, NotFound, StaleSession
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.webhooks import Delivery, WebhookFailed, WebhookRedelivered, WebhookSecretRotated
from enclave.core.audit import verify
from enclave.core.session import Started, TornDown, advance, created
from enclave.core.webhook import MAX_SECRETS, delivery_id
from enclave.store.base import Attempt, Due, Held, Outbox, Share, Signing, Store
from enclave.testing.promise import expect, expect_error
from enclave.testing.store import AT, FINISHED

URL: Final = "https://hooks.example/in?token=tok_examined_0123456789"
ALL: Final = Share(host=100, org=100, all=100)
LEASE: Final = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is examined: a store, and the two beside it."""

    store: Store
    outbox: Outbox
    signing: Signing


Make = Callable[[str], Awaitable[Kept]]
"""Opens what is kept under a name: empty for a new name, with what it held for one that was open before."""


async def check_outbox(make: Make) -> None:
    """Hold it against every promise; raises AssertionError, which names the first that is broken."""
    for name, promise in PROMISES.items():
        async with _opened(make, name) as kept:
            await promise(kept)
    await _keeps_what_it_closed_with(make)


async def _makes_it_due_with_the_end(kept: Kept) -> None:
    session = await _begin(kept, 1)
    expect([], await _offered(kept, later(3600)), "nothing is due while the session runs")
    expect([], list(await kept.outbox.find("org_a")), "nothing is told of while the session runs")
    await _end(kept, session)
    (due,) = await _offered(kept)
    expect(Due("org_a", "hooks.example", session.id), due, "the webhook is due with the end of its session")
    (told,) = await kept.outbox.find("org_a")
    expect(_pending(session, Phase.SUCCEEDED), told, "what is due is told of")


async def _makes_nothing_due_with_a_refused_end(kept: Kept) -> None:
    session = await _begin(kept, 1)
    stale = advance(session.model_copy(update={"phase": Phase.PENDING}), TornDown(), at=AT, actor="x")
    await expect_error(kept.store.commit(stale), StaleSession, "a stale change is refused")
    expect([], await _offered(kept), "a change that is refused makes nothing due")


async def _says_once_how_a_session_ended(kept: Kept) -> None:
    session = await _end(kept, await _begin(kept, 1))
    await kept.outbox.settle(_taken(await _claim(kept, session)))
    await kept.store.commit(advance(session, TornDown(), at=later(9), actor="x"))
    (told,) = await kept.outbox.find("org_a")
    expect((Phase.SUCCEEDED, "delivered"), (told.phase, told.state), "a later teardown is no second end")


async def _gives_a_claim_to_one(kept: Kept) -> None:
    session = await _end(kept, await _begin(kept, 1))
    (due,) = await _offered(kept)
    claims = [kept.outbox.claim(due, AT, AT + LEASE) for _ in range(3)]
    answers = await asyncio.gather(*claims, return_exceptions=True)
    expect([Held, Conflict, Conflict], [type(one) for one in answers], "of those that ask at once one gets it")
    expect([], await _offered(kept), "what is claimed is not offered")
    expect([due], await _offered(kept, AT + LEASE), "it is offered again when the claim is over")
    again = await kept.outbox.claim(due, AT + LEASE, AT + 2 * LEASE)
    first = next(one for one in answers if isinstance(one, Held))
    await expect_error(kept.outbox.settle(_taken(first)), Conflict, "a claim that is over tells nothing")
    expect(1, len(await _noted(kept, again)), "and leaves no event, while the one in force does")
    expect("delivered", (await _told(kept, session)).state, "the claim in force tells")


async def _opens_its_urls(kept: Kept) -> None:
    claimed = await _claim(kept, await _end(kept, await _begin(kept, 1)))
    expect(URL, kept.outbox.url(claimed), "a URL reads as it was sealed")


async def _tries_again_when_told(kept: Kept) -> None:
    session = await _end(kept, await _begin(kept, 1))
    claimed = await _claim(kept, session)
    await kept.outbox.settle(Attempt(claimed, later(1), 500, "no", later(6)))
    expect([], await _offered(kept, later(5)), "it is not due before its time")
    told = await _told(kept, session)
    facts = (told.state, told.attempts, told.last_status, told.last_error, told.last_attempt_at, told.next_attempt_at)
    expect(("pending", 1, 500, "no", later(1), later(6)), facts, "an attempt is told of")
    (due,) = await _offered(kept, later(6))
    again = await kept.outbox.claim(due, later(6), later(6) + LEASE)
    expect(1, again.attempts, "attempts are counted")
    await kept.outbox.settle(Attempt(again, later(7), None, "gone", None))
    expect([], await _offered(kept, later(10**6)), "what is given up is not due")
    expect(("failed", 2), _state(await _told(kept, session)), "what is given up is told of")


async def _delivers_again_when_asked(kept: Kept) -> None:
    session = await _end(kept, await _begin(kept, 1))
    await kept.outbox.settle(_taken(await _claim(kept, session)))
    expect(("delivered", 1), _state(await _told(kept, session)), "what was taken is told of")
    told = await kept.outbox.redeliver(_again(session))
    expect(("pending", 0), _state(told), "what is to be sent again is as new")
    expect(1, len(await _offered(kept, later(60))), "what is to be sent again is due")
    events = [event.type for event in await kept.store.chain("org_a")]
    expect("webhook_redelivered", events[-1], "who asked is in the trail")
    for other in (_again(session, org_id="org_b"), _again(session, phase=Phase.FAILED), _again(_session(9))):
        await expect_error(kept.outbox.redeliver(other), NotFound, "what is not there, or another's, is not found")
    expect(len(events), len(await kept.store.chain("org_a")), "what is refused leaves no event")


async def _offers_to_each_in_turn(kept: Kept) -> None:
    for number in range(1, 9):
        await _end(kept, await _begin(kept, number, host="dead.example"))
    other = await _end(kept, await _begin(kept, 10), at=later(1))
    theirs = await _end(kept, await _begin(kept, 11, "org_b"), at=later(2))
    offered = await kept.outbox.due(later(3), Share(host=3, org=3, all=4))
    expect(
        ["dead.example", theirs.id, other.id, "dead.example"],
        [one.host if one.host == "dead.example" else one.session_id for one in offered],
        "nobody is kept waiting by what others have to be sent, nor a host by another",
    )


async def _lists_newest_first_and_keeps_orgs_apart(kept: Kept) -> None:
    made = [await _end(kept, await _begin(kept, number)) for number in (2, 3, 1)]
    theirs = await _end(kept, await _begin(kept, 4, "org_b"))
    ids = sorted((session.id for session in made), reverse=True)
    expect(ids, [one.session_id for one in await kept.outbox.find("org_a")], "webhooks are listed newest first")
    page = await kept.outbox.find("org_a", before=ids[0], limit=1)
    expect(ids[1:2], [one.session_id for one in page], "a page begins after its cursor")
    expect(1, len(await kept.outbox.find("org_a", session_id=ids[1])), "one session's is found")
    expect([], list(await kept.outbox.find("org_a", session_id=theirs.id)), "another org's is not")


async def _signs_with_the_old_beside_the_new(kept: Kept) -> None:
    expect((False, []), await _signing(kept), "an org has no secret at first")
    await kept.signing.rotate("whsec_1", _rotated(0, None))
    await expect_error(kept.signing.rotate("whsec_x", _rotated(1, None)), Conflict, "there is one first secret")
    expect((True, ["whsec_1"]), await _signing(kept), "the first secret signs")
    await kept.signing.rotate("whsec_2", _rotated(2, 60))
    expect((True, ["whsec_2", "whsec_1"]), await _signing(kept, later(59)), "the old signs beside the new")
    expect((True, ["whsec_2"]), await _signing(kept, later(60)), "until its time is over")
    expect([], list(await kept.signing.secrets("org_b", AT)), "another org has none of them")
    with_none_before = WebhookSecretRotated(ts=AT, org_id="org_b", actor="x", previous_until=later(60))
    await expect_error(kept.signing.rotate("whsec_y", with_none_before), Conflict, "what is not there is not replaced")
    types = [event.type for event in await kept.store.chain("org_a")]
    expect(["webhook_secret_rotated"] * 2, types, "each secret leaves its event, and what is refused none")


async def _bounds_how_many_sign(kept: Kept) -> None:
    await kept.signing.rotate("whsec_0", _rotated(0, None))
    for number in range(1, MAX_SECRETS + 3):
        await kept.signing.rotate(f"whsec_{number}", _rotated(number, 10**6))
    _, found = await _signing(kept)
    newest = [f"whsec_{number}" for number in range(MAX_SECRETS + 2, 2, -1)]
    expect(newest, found, "of too many secrets the newest sign")


async def _keeps_what_it_closed_with(make: Make) -> None:
    async with _opened(make, "reopened") as kept:
        session = await _end(kept, await _begin(kept, 1))
        await kept.signing.rotate("whsec_1", _rotated(0, None))
    async with _opened(make, "reopened") as kept:
        claimed = await _claim(kept, session)
        expect(URL, kept.outbox.url(claimed), "what is due outlives its store")
        expect((True, ["whsec_1"]), await _signing(kept), "what signs outlives its store")


PROMISES: Final[dict[str, Callable[[Kept], Awaitable[None]]]] = {
    promise.__name__.strip("_"): promise
    for promise in (
        _makes_it_due_with_the_end,
        _makes_nothing_due_with_a_refused_end,
        _says_once_how_a_session_ended,
        _gives_a_claim_to_one,
        _opens_its_urls,
        _tries_again_when_told,
        _delivers_again_when_asked,
        _offers_to_each_in_turn,
        _lists_newest_first_and_keeps_orgs_apart,
        _signs_with_the_old_beside_the_new,
        _bounds_how_many_sign,
    )
}


@asynccontextmanager
async def _opened(make: Make, name: str) -> AsyncIterator[Kept]:
    kept = await make(name)
    try:
        yield kept
    finally:
        await kept.store.close()


def later(seconds: float) -> datetime:
    """So much after the time at which the sessions that are examined end."""
    return AT + timedelta(seconds=seconds)


def _session(number: int, org_id: str = "org_a") -> Session:
    return Session(
        id=f"ses_{number:026d}",
        org_id=org_id,
        created_by="examiner",
        phase=Phase.PENDING,
        language=Language.PYTHON,
        limits=SessionLimits(),
        egress=EgressPolicy(),
        backend="examined",
        created_at=AT,
    )


async def _begin(kept: Kept, number: int, org_id: str = "org_a", host: str = "hooks.example") -> Session:
    session = _session(number, org_id)
    await kept.store.commit(created(session, "x", callback=kept.outbox.seal(session.id, host, URL)))
    change = advance(session, Started("examined"), at=AT, actor="x")
    await kept.store.commit(change)
    return change.session


async def _end(kept: Kept, session: Session, at: datetime = AT) -> Session:
    change = advance(session, FINISHED, at=at, actor="x")
    await kept.store.commit(change)
    return change.session


async def _offered(kept: Kept, at: datetime = AT) -> list[Due]:
    return list(await kept.outbox.due(at, ALL))


async def _claim(kept: Kept, session: Session) -> Held:
    (due,) = [one for one in await _offered(kept) if one.session_id == session.id]
    return await kept.outbox.claim(due, AT, AT + LEASE)


async def _told(kept: Kept, session: Session) -> Delivery:
    (told,) = await kept.outbox.find(session.org_id, session_id=session.id)
    return told


async def _noted(kept: Kept, claimed: Held) -> list[str]:
    """The events that a webhook which is taken leaves."""
    before = len(await kept.store.chain("org_a"))
    event = WebhookFailed(
        ts=AT,
        org_id="org_a",
        actor="x",
        delivery_id=delivery_id(claimed.due.session_id, claimed.phase),
        about=claimed.due.session_id,
        host=claimed.due.host,
        attempts=1,
        status=None,
        error="examined",
    )
    await kept.outbox.settle(Attempt(claimed, AT, 204, None, None, (event,)))
    chain = list(await kept.store.chain("org_a"))
    expect(None, verify(chain), "the chain holds with what is told of webhooks")
    return [one.type for one in chain[before:]]


def _taken(claimed: Held) -> Attempt:
    return Attempt(claimed, AT, 204, None, None)


def _state(told: Delivery) -> tuple[str, int]:
    return told.state, told.attempts


def _pending(session: Session, phase: Phase) -> Delivery:
    return Delivery(
        id=delivery_id(session.id, phase),
        session_id=session.id,
        phase=phase,
        host="hooks.example",
        state="pending",
        attempts=0,
        created_at=AT,
        last_attempt_at=None,
        last_status=None,
        last_error=None,
        next_attempt_at=AT,
        delivered_at=None,
    )


def _again(session: Session, org_id: str = "org_a", phase: Phase = Phase.SUCCEEDED) -> WebhookRedelivered:
    return WebhookRedelivered(
        ts=later(1), org_id=org_id, actor="x", delivery_id=delivery_id(session.id, phase), about=session.id
    )


def _rotated(at: float, previous_until: float | None) -> WebhookSecretRotated:
    until = None if previous_until is None else later(previous_until)
    return WebhookSecretRotated(ts=later(at), org_id="org_a", actor="x", previous_until=until)


async def _signing(kept: Kept, at: datetime = AT) -> tuple[bool, list[str]]:
    return await kept.signing.has_one("org_a"), list(await kept.signing.secrets("org_a", at))
