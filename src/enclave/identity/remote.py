"""Callers that an identity service of its own knows: asked there, remembered here for a while.

What was answered is fresh for some seconds. While the service does not answer, what was answered with yes counts for a
while longer; nothing else passes, and nothing is refused that the service did not refuse.
"""

import asyncio
import hashlib
import math
import re
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from enclave.contracts.errors import Forbidden, Unauthenticated, Unavailable
from enclave.contracts.identity import Principal
from enclave.contracts.introspection import INTROSPECT, MAX_CREDENTIAL_CHARS, Introspect, Introspection
from enclave.contracts.wire import Wire
from enclave.identity.apikey import looks_like_key
from enclave.identity.circuit import Circuit
from enclave.identity.database import Clock
from enclave.identity.token import INVALID, TokenReader

MAX_REMEMBERED: Final = 4096
"""The most answers of each kind. What strangers are refused with is kept apart, so that they push nobody out."""
MAX_STRANGERS: Final = 32
"""The most credentials asked about at once that were not known to hold."""
MAX_ASKED: Final = 96
"""The most asked about at once in all; who was known before waits for a turn."""

_TOKEN: Final = re.compile(r"[\w=-]+\.[\w=-]+\.[\w=-]+", re.ASCII)
_INACTIVE: Final = Introspection(active=False)

W = TypeVar("W", bound=Wire)


class Questions(Protocol):
    """Where to ask; see `Line`."""

    async def ask(self, path: str, body: Wire, kind: type[W]) -> W:
        """The answer. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """How many seconds an answer is fresh, and how many it counts while there is no other."""

    fresh_seconds: float = 10.0
    grace_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Known:
    """An answer, when it was asked for, and until when (POSIX seconds) what it tells of holds at most."""

    answer: Introspection
    asked_at: float
    until: float


class RemoteIdentity:
    """An Authenticator that asks another process. Use it from one event loop, and close it.

    With the `tokens` of a secret shared with the service, user tokens that others made are refused without asking.
    """

    def __init__(
        self, line: Questions, terms: Terms, *, now: Clock, circuit: Circuit, tokens: TokenReader | None = None
    ) -> None:
        self._line = line
        self._terms = terms
        self._now = now
        self._circuit = circuit
        self._tokens = tokens
        self._clock = circuit.clock
        self._active: dict[bytes, Known] = {}
        self._refused: dict[bytes, Known] = {}
        self._asking: dict[bytes, asyncio.Task[Introspection]] = {}
        self._tasks: set[asyncio.Task[Introspection]] = set()
        self._strangers: set[asyncio.Task[Introspection]] = set()
        self._turns = asyncio.Semaphore(MAX_ASKED)
        self._generation = 0

    async def authenticate(self, credential: str) -> Principal:
        """The caller behind an API key or a user JWT. Raises Unauthenticated, Forbidden to the operator, and
        Unavailable where the service has to be asked and does not answer."""
        answer = await self._answer(credential)
        if answer.operator:
            raise Forbidden("the operator acts in no org: use an API key or a user token of one")
        if answer.principal is None:
            raise Unauthenticated
        return answer.principal

    async def authenticate_operator(self, credential: str) -> None:
        """Pass the operator's credential. Raises Forbidden to an org's caller, Unauthenticated and Unavailable."""
        answer = await self._answer(credential)
        if not answer.active:
            raise Unauthenticated
        if not answer.operator:
            raise Forbidden("only the operator may: it takes the credential in the server's operator.json")

    def forget(self, org_id: str | None = None) -> None:
        """Ask again about every caller of an org, or every one there is."""
        # What is on its way may be older than what made them be forgotten.
        self._generation += 1
        self._asking.clear()
        if org_id is None:
            self._active.clear()
            self._refused.clear()
            return
        for digest in [digest for digest, known in self._active.items() if _org(known) == org_id]:
            del self._active[digest]

    async def _answer(self, credential: str) -> Introspection:
        if len(credential) > MAX_CREDENTIAL_CHARS or not credential.isascii():
            return _INACTIVE
        digest = hashlib.sha256(credential.encode()).digest()
        known = self._active.get(digest) or self._refused.get(digest)
        if known is not None and self._counts(known, self._terms.fresh_seconds):
            return known.answer
        return await self._ask_anew(digest, credential)

    async def _ask_anew(self, digest: bytes, credential: str) -> Introspection:
        if not self._plausible(credential):
            return _INACTIVE
        if self._circuit.closed:
            try:
                return await asyncio.shield(self._flight(digest, credential))
            except Unavailable as error:
                return self._older(digest, error)
        if self._room_for(digest) and self._circuit.may_try():
            flight = self._fly(digest, self._ask(digest, credential))
            if self._graced(digest) is None:
                return await asyncio.shield(flight)
        wait = max(1.0, self._circuit.wait_seconds)
        return self._older(digest, Unavailable("the identity service does not answer", retry_after=wait))

    def _older(self, digest: bytes, error: Unavailable) -> Introspection:
        known = self._graced(digest)
        if known is None:
            raise error
        return known.answer

    def _graced(self, digest: bytes) -> Known | None:
        known = self._active.get(digest)
        return known if known is not None and self._counts(known, self._terms.grace_seconds) else None

    def _counts(self, known: Known, seconds: float) -> bool:
        return self._clock() < known.asked_at + seconds and self._now().timestamp() < known.until

    def _plausible(self, credential: str) -> bool:
        if looks_like_key(credential):
            return True
        if self._tokens is None:
            return _TOKEN.fullmatch(credential) is not None
        try:
            return self._tokens.read(credential).until > self._now().timestamp()
        except INVALID:
            return False

    def _flight(self, digest: bytes, credential: str) -> "asyncio.Task[Introspection]":
        """The question that is on its way, or one that is sent now: however many want to know, it is asked once."""
        flight = self._asking.get(digest)
        # One that is over is forgotten in a moment; its answer may be old by then.
        if flight is None or flight.done():
            if not self._room_for(digest):
                raise Unavailable("too many unknown credentials at once", retry_after=1)
            flight = self._fly(digest, self._in_turn(digest, credential))
        return flight

    def _room_for(self, digest: bytes) -> bool:
        return digest in self._active or len(self._strangers) < MAX_STRANGERS

    def _fly(self, digest: bytes, asking: Coroutine[None, None, Introspection]) -> "asyncio.Task[Introspection]":
        task = asyncio.get_running_loop().create_task(asking)
        task.add_done_callback(lambda done: self._landed(digest, done))
        self._asking[digest] = task
        self._tasks.add(task)
        if digest not in self._active:
            self._strangers.add(task)
        return task

    async def _in_turn(self, digest: bytes, credential: str) -> Introspection:
        async with self._turns:
            if not self._circuit.closed:
                raise Unavailable("the identity service does not answer", retry_after=1)
            return await self._ask(digest, credential)

    async def _ask(self, digest: bytes, credential: str) -> Introspection:
        asked_at, generation = self._clock(), self._generation
        try:
            answer = await self._line.ask(INTROSPECT, Introspect(credential=credential), Introspection)
        except Unavailable as error:
            self._circuit.failed(error.detail)
            raise
        self._circuit.succeeded()
        if generation == self._generation:
            until = math.inf if answer.until is None else answer.until.timestamp()
            self._remember(digest, Known(answer, asked_at, until))
        return answer

    def _remember(self, digest: bytes, known: Known) -> None:
        kept, other = (self._active, self._refused) if known.answer.active else (self._refused, self._active)
        other.pop(digest, None)
        kept.pop(digest, None)
        if len(kept) >= MAX_REMEMBERED:
            _make_room(kept)
        kept[digest] = known

    def _landed(self, digest: bytes, task: "asyncio.Task[Introspection]") -> None:
        self._tasks.discard(task)
        self._strangers.discard(task)
        if self._asking.get(digest) is task:
            del self._asking[digest]
        if not task.cancelled():
            # Nobody may be left who wants to know.
            task.exception()

    async def close(self) -> None:
        """Ask nothing more."""
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _make_room(kept: dict[bytes, Known]) -> None:
    """Forget some of the oldest: of the org that has the most, so that none pushes another's callers out."""
    part = max(1, MAX_REMEMBERED // 64)
    org_id, count = Counter(map(_org, kept.values())).most_common(1)[0]
    theirs = [digest for digest, known in kept.items() if count <= part or _org(known) == org_id]
    for digest in theirs[:part]:
        del kept[digest]


def _org(known: Known) -> str | None:
    return known.answer.principal.org_id if known.answer.principal else None
