"""The identity authority in another process, as a control plane sees it: its callers, its operations and its events."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Unavailable
from enclave.identity.base import Answered, Asked
from enclave.identity.circuit import Circuit
from enclave.identity.database import Clock
from enclave.identity.guard import site
from enclave.identity.line import Line
from enclave.identity.outbox import Sink
from enclave.identity.pull import EventPull
from enclave.identity.remote import RemoteIdentity, Terms
from enclave.identity.token import TokenReader

MAX_RELAYED: Final = 64
"""The most operations on their way to the service at once."""
MAX_OF_PLACE: Final = 32
"""The most of them from one place: sign-ins wait for their turn there, and would take all."""

_TELLING: Final = frozenset(
    {
        "key_revoked",
        "member_changed",
        "member_removed",
        "org_disabled",
        "password_changed",
        "refresh_reused",
        "signed_out",
    }
)
"""Events after which what is remembered of an org's callers may be wrong."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an identity service is: the address of its internal listener, a control plane's credential there, and the
    secret of user tokens, if it is shared."""

    url: str
    key: str = field(repr=False)
    jwt_secret: bytes | None = field(default=None, repr=False)


class SeparateIdentity:
    """An Authenticator and a Relay. Use it from one event loop, while it is open."""

    def __init__(self, line: Line, callers: RemoteIdentity, circuit: Circuit) -> None:
        self.callers = callers
        self._line = line
        self._circuit = circuit
        self._relayed: Counter[str] = Counter()

    async def relay(self, asked: Asked) -> Answered:
        """What the service answers to an operation of its own. Raises Unavailable."""
        if not (self._circuit.closed or not self._circuit.wait_seconds):
            raise Unavailable("the identity service does not answer", retry_after=1)
        place = site(asked.address)
        if self._relayed.total() >= MAX_RELAYED or self._relayed[place] >= MAX_OF_PLACE:
            raise Unavailable("too much is asked of the identity service at once", retry_after=1)
        self._relayed[place] += 1
        try:
            return await self._line.relay(asked)
        finally:
            self._relayed -= Counter((place,))  # a place with none is not kept

    def forget(self, org_id: str | None = None) -> None:
        """An org, or all of them, may have changed: ask anew about its callers."""
        self.callers.forget(org_id)


@contextlib.asynccontextmanager
async def separate_identity(place: Place, terms: Terms, sink: Sink, now: Clock) -> AsyncIterator[SeparateIdentity]:
    """The identity service that is there; what it tells goes to `sink`. It need not answer yet. Raises InvalidRequest
    for a secret that is too short."""
    tokens = None if place.jwt_secret is None else TokenReader(place.jwt_secret)
    line, circuit = Line(place.url, place.key), Circuit(time.monotonic)
    callers = RemoteIdentity(line, terms, now=now, circuit=circuit, tokens=tokens)

    async def hear(key: str, event: AuditEvent) -> object:
        if event.type in _TELLING:
            callers.forget(event.org_id)
        return await sink(key, event)

    pulling = asyncio.create_task(EventPull(line, hear).run())
    try:
        yield SeparateIdentity(line, callers, circuit)
    finally:
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)
        await callers.close()
        await line.close()
