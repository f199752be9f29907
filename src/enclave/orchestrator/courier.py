"""Who sends webhooks: what is due, with bounds on how much of it goes to whom at once, until it is taken or given up.

It stands beside the life of sessions and in no one's way: a session's end makes its webhook due in the store, and
nothing waits for what comes after.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from random import SystemRandom
from typing import Final, TypedDict

from enclave.contracts.errors import Conflict, EnclaveError, NotFound, SecretUnreadable
from enclave.contracts.webhooks import WebhookDelivered, WebhookFailed
from enclave.core.webhook import ATTEMPT_SECONDS, GONE, body, delivery_id, is_delivered, next_attempt, signatures
from enclave.orchestrator.record import PLATFORM
from enclave.orchestrator.webhook import Keyring
from enclave.store.base import Attempt, Due, Held, Outbox, Share, Store
from enclave.webhook.base import Answer, Post, Sender

LEASE: Final = timedelta(seconds=ATTEMPT_SECONDS + 5)
"""How long a webhook is claimed: what is not told by then, because whoever sent it is no more, is sent again."""

MOST: Final = Share(host=8, org=16, all=128)
"""The attempts that are under way at once: more than any one org can hold up, and few enough for their memory."""

_POLL_SECONDS: Final = 1.0
_REST_SECONDS: Final = 0.05
_REST_RATIO: Final = 9
_OFFERS: Final = Share(host=8, org=32, all=512)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What a courier works with. `most` is how many attempts are under way at once: to one host for one org, for one
    org, and of all; `chance` is from 0 to 1."""

    store: Store
    outbox: Outbox
    keyring: Keyring
    sender: Sender
    clock: Callable[[], datetime]
    most: Share = MOST
    chance: Callable[[], float] = field(default=SystemRandom().random)


class Courier:
    """Sends what is due, from when it is started until it is closed."""

    def __init__(self, means: Means, stirred: asyncio.Event) -> None:
        self._means = means
        self._stirred = stirred
        self._under_way = Counter[tuple[str, str]]()
        self._tasks: set[asyncio.Task[None]] = set()
        self._walking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._walking = asyncio.get_running_loop().create_task(self._walk())

    async def close(self) -> None:
        """Break off what is under way; it is sent again once its claim is over."""
        tasks = [task for task in (self._walking, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _walk(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._stirred.clear()
            began = clock()
            try:
                await self._set_out()
            except EnclaveError as error:
                _log.error("webhooks cannot be read or claimed: %s", error.detail)
            except Exception as error:  # noqa: BLE001  whatever happened, there is a next time
                _log.error("webhooks: %r", error, exc_info=error)
            # However much is due, looking through it takes a small part of what others read with.
            await asyncio.sleep(max(_REST_SECONDS, _REST_RATIO * (clock() - began)))
            await self._until_stirred()

    async def _until_stirred(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._stirred.wait()
        except TimeoutError:
            pass

    async def _set_out(self) -> None:
        if len(self._tasks) >= self._means.most.all:
            return
        now, outbox = self._means.clock(), self._means.outbox
        chosen = self._chosen(await outbox.due(now, _OFFERS))
        claims = [outbox.claim(due, now, now + LEASE) for due in chosen]
        answers = await asyncio.gather(*claims, return_exceptions=True)
        for claimed in answers:
            if isinstance(claimed, Held):
                self._carry_off(claimed)
        for error in answers:
            # In a conflict it is somebody else's; anything else is wrong with the store, and told once for all of them.
            if isinstance(error, BaseException) and not isinstance(error, Conflict):
                raise error

    def _chosen(self, offered: Sequence[Due]) -> Iterator[Due]:
        """What to send now: of whoever has the least under way first."""
        hosts, orgs, turns, most = Counter(self._under_way), self._per_org(), Counter[str](), self._means.most
        ranked: list[tuple[int, Due]] = []
        for due in offered:
            ranked.append((orgs[due.org_id] + turns[due.org_id], due))
            turns[due.org_id] += 1
        for _, due in sorted(ranked, key=lambda pair: pair[0]):
            place = (due.org_id, due.host)
            if orgs[due.org_id] < most.org and hosts[place] < most.host and hosts.total() < most.all:
                orgs[due.org_id] += 1
                hosts[place] += 1
                yield due

    def _per_org(self) -> Counter[str]:
        orgs = Counter[str]()
        for (org_id, _), count in self._under_way.items():
            orgs[org_id] += count
        return orgs

    def _carry_off(self, claimed: Held) -> None:
        place = (claimed.due.org_id, claimed.due.host)
        self._under_way[place] += 1
        task = asyncio.get_running_loop().create_task(self._carry(claimed))
        self._tasks.add(task)
        task.add_done_callback(partial(self._returned, place))

    def _returned(self, place: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._under_way -= Counter([place])
        self._stirred.set()

    async def _carry(self, claimed: Held) -> None:
        session_id = claimed.due.session_id
        try:
            answer = await self._attempt(claimed)
            await self._means.outbox.settle(self._told(claimed, answer))
            if answer.lingering is not None:
                await asyncio.wait((answer.lingering,))
        except (Conflict, NotFound):
            _log.debug("webhook of %s: somebody else has it, or its session is no longer kept", session_id)
        except Exception as error:  # noqa: BLE001  it stays due, and is tried again when the claim is over
            _log.error("webhook of %s: %r", session_id, error, exc_info=error)

    async def _attempt(self, claimed: Held) -> Answer:
        due = claimed.due
        try:
            url = self._means.outbox.url(claimed)
            secrets = await self._means.keyring.secrets(due.org_id)
            session = await self._means.store.get(due.org_id, due.session_id)
        except SecretUnreadable as error:
            return Answer(error=error.detail)
        content = body(session, claimed.phase)
        headers = signatures(secrets, delivery_id(session.id, claimed.phase), self._means.clock(), content)
        return await self._means.sender.send(Post(url, headers, content))

    def _told(self, claimed: Held, answer: Answer) -> Attempt:
        """What to write of an attempt."""
        now, attempts, status = self._means.clock(), claimed.attempts + 1, answer.status
        if is_delivered(status):
            return Attempt(claimed, now, status, None, None, (_delivered(claimed, now, status or 0),))
        error = answer.error or f"the receiver answered {status}"
        again = None
        if status != GONE:
            again = next_attempt(attempts, now, self._means.chance(), answer.retry_after)
        events = () if again is not None else (_failed(claimed, now, status, error),)
        return Attempt(claimed, now, status, error, again, events)


class _Stamp(TypedDict):
    ts: datetime
    org_id: str
    actor: str
    delivery_id: str
    about: str
    host: str
    attempts: int


def _stamp(claimed: Held, at: datetime) -> _Stamp:
    due = claimed.due
    return _Stamp(
        ts=at,
        org_id=due.org_id,
        actor=PLATFORM,
        delivery_id=delivery_id(due.session_id, claimed.phase),
        about=due.session_id,
        host=due.host,
        attempts=claimed.attempts + 1,
    )


def _delivered(claimed: Held, at: datetime, status: int) -> WebhookDelivered:
    return WebhookDelivered(**_stamp(claimed, at), status=status)


def _failed(claimed: Held, at: datetime, status: int | None, error: str) -> WebhookFailed:
    return WebhookFailed(**_stamp(claimed, at), status=status, error=error)
