"""One session's record while it lives: what has been decided, and how much of that is durable and may be shown."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Final

from enclave.backends.base import Backend
from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import InternalError, Unavailable
from enclave.contracts.sessions import Session
from enclave.core.observer import Nobody, Observer
from enclave.core.session import UNSETTLED, Change, Outcome, advance, noted
from enclave.orchestrator.stream import LiveStream
from enclave.source.base import SourceFetcher
from enclave.store.base import FileStore, Journals, Store, Tenancy
from enclave.store.base.replicas import Replicas

PLATFORM: Final = "platform"
"""The actor of what no caller asked for."""
OPERATOR: Final = "operator"
"""The actor of what the operator asked for."""

Sealed = asyncio.Future[tuple[AuditEvent, ...]]


@dataclass(frozen=True, slots=True)
class Ports:
    """What the orchestrator works with. `replicas` is the store's other side, if others may share it. `patience` are
    the seconds after which the end of a session is written again that could not be."""

    store: Store
    backend: Backend
    clock: Callable[[], datetime]
    files: FileStore
    tenancy: Tenancy
    journals: Journals
    sources: SourceFetcher | None = None
    observer: Observer = field(default_factory=Nobody)
    replicas: Replicas | None = None
    patience: Sequence[float] = ()


class Record:
    """A session that is written while it goes on.

    `session` is what has been decided, `shown` what is durable; `observe` is called with each change as it is, before
    anyone can know. A write that fails is kept as `error`, and `refused` is called; what was decided after it is void.
    """

    def __init__(
        self, ports: Ports, change: Change, refused: Callable[[], None], observe: Callable[[Change], None]
    ) -> None:
        self.session = change.session
        self.shown: Session | None = None
        self.stream = LiveStream(ports.journals.journal(change.session.org_id, change.session.id))
        self.settled = False
        self._ports = ports
        self._refused = refused
        self._observe = observe
        self._error: Exception | None = None
        self._queue: deque[tuple[Sealed, Change]] = deque()
        self._until_durable: list[asyncio.Future[None]] = []
        self._until_settled: list[asyncio.Future[None]] = []
        self._commit(change)

    def advance(self, outcome: Outcome, actor: str = PLATFORM) -> None:
        """Decide what happened next, and queue it to be written."""
        self._commit(advance(self.session, outcome, at=self._ports.clock(), actor=actor))

    def note(self, event: AuditEvent) -> None:
        """Queue an event to be written that leaves the session where it is."""
        self._commit(noted(self.session, event))

    async def written(self) -> None:
        """Return when everything decided is durable or refused."""
        while self._queue:
            await asyncio.wait((self._queue[-1][0],))
            self._land()

    async def answer(self, wait_seconds: float | None) -> Session:
        """The session once it is durable, and with a wait once it is settled or the wait is over."""
        if wait_seconds and not self.settled:
            await _one_of(self._until_settled, wait_seconds)
        if self.shown is None and self._error is None:
            await _one_of(self._until_durable)
        return self.visible()

    def visible(self) -> Session:
        """The session as it is durable; raises what kept it from being written."""
        if self.shown is None or (self.settled and self.shown.phase in UNSETTLED):
            raise self._error or InternalError()
        return self.shown

    @property
    def may_be_written_yet(self) -> bool:
        """Whether what was refused was so for want of a store that takes it."""
        return isinstance(self._error, Unavailable)

    def roll_back(self) -> bool:
        """Forget what was decided and refused; False if nothing of the session is durable."""
        self.session = self.shown or self.session
        return self.shown is not None

    def close(self) -> None:
        """Nothing more will be decided. It lets go of whoever is told of refusals, who holds this record."""
        self._refused = _nobody

    def give_up(self) -> None:
        """Let go of everyone who waits: the session cannot be brought to its end."""
        self.settled = True
        self.stream.fail(Unavailable("the end of this session could not be recorded"))
        self._notify()

    def _commit(self, change: Change) -> None:
        self.session = change.session
        sealed, since = asyncio.ensure_future(self._ports.store.commit(change)), monotonic()
        self._queue.append((sealed, change))
        sealed.add_done_callback(lambda _: self._land(since))

    def _land(self, since: float | None = None) -> None:
        if since is not None:
            self._ports.observer.stored(monotonic() - since)
        # The head first, whichever future called: what was decided first is shown first.
        while self._queue and self._queue[0][0].done():
            sealed, change = self._queue.popleft()
            error = _failure(sealed)
            if error is None:
                self._show(change, sealed.result())
            else:
                self._fail(error)

    def _show(self, change: Change, events: tuple[AuditEvent, ...]) -> None:
        self.shown = change.session
        self.settled = change.session.phase not in UNSETTLED
        self._observe(change)
        self.stream.publish(events, change.session)
        for event in events:
            self._ports.observer.told(event, change.session)
        self._notify()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._refused()

    def _notify(self) -> None:
        _release(self._until_durable)
        if self.settled:
            _release(self._until_settled)


def _nobody() -> None:
    pass


def _failure(sealed: Sealed) -> Exception | None:
    if sealed.cancelled():
        return Unavailable("the store was closed")
    error = sealed.exception()
    return error if error is None or isinstance(error, Exception) else InternalError()


async def _one_of(waiters: list[asyncio.Future[None]], seconds: float | None = None) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    waiters.append(waiter)
    timer = loop.call_later(seconds, _resolve, waiter) if seconds is not None else None
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()


def _release(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        _resolve(waiter)
    waiters.clear()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
