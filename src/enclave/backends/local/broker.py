"""The egress broker as the control plane holds it: sessions are admitted and dismissed; one that dies is replaced."""

import asyncio
import itertools
import logging
import sys
from collections.abc import Sequence
from typing import Final, Protocol

from enclave.backends.local import connection
from enclave.backends.local.connection import Connection, Program, Report
from enclave.contracts.errors import Unavailable
from enclave.core.egress import Floor
from enclave.egress import wire

PROGRAM: Final = Program(
    name="egress broker", module="enclave.egress.boot", interpreter=sys.executable, options=("-I",)
)
DISMISS_SECONDS: Final = 10.0
"""How long the broker may take to let a session go. One that takes longer is stuck, and holds up every session."""
READY_SECONDS: Final = 5.0
"""How long a session waits for the broker that follows one that died."""

_RESTART_SECONDS: Final = 0.2

log = logging.getLogger(__name__)


class Guest(Protocol):
    """Whoever has had a session admitted."""

    def on_attempt(self, report: Report) -> None:
        """The session attempted something."""
        ...

    def on_broker_lost(self) -> None:
        """Nobody looks after the session any more."""
        ...


class Broker:
    """The one broker of this machine's sandboxes."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._connection: Connection | None = None
        self._numbers = itertools.count(1)
        self._guests: dict[int, Guest] = {}
        self._leaving: dict[int, asyncio.Future[None]] = {}
        self._ending: asyncio.Task[None] | None = None

    @property
    def stands(self) -> bool:
        """Whether there is a broker that takes sessions."""
        return self._connection is not None

    @property
    def pid(self) -> int:
        """Its process. Raises Unavailable."""
        if self._connection is None:
            raise Unavailable("the egress broker is being restarted; retry shortly")
        return self._connection.pid

    async def open(self) -> None:
        """Have a broker stand. Raises Unavailable, saying why."""
        started = await connection.start(PROGRAM, wire.configure(self._floor))
        started.listen(self._on_report, self._on_end)
        self._connection = started

    async def close(self) -> None:
        """End it."""
        if self._ending is not None:
            self._ending.cancel()
        held, self._connection = self._connection, None
        if held is not None:
            await held.close()
        self._lose_all()

    async def settled(self) -> None:
        """Return when what follows the death of a broker has been done."""
        if self._ending is not None:
            await self._ending

    async def ready(self) -> None:
        """Where a broker has just died, wait for its successor, for so long."""
        if self._connection is None and self._ending is not None:
            await asyncio.wait((self._ending,), timeout=READY_SECONDS)

    def admit(self, guest: Guest, terms: wire.Terms, fds: Sequence[int]) -> int:
        """Have a session looked after; the descriptors are taken over. Returns its number. Raises Unavailable."""
        number = next(self._numbers)
        if self._connection is None:
            connection.close_all(fds)
            raise Unavailable("the egress broker is being restarted; retry shortly")
        self._connection.send(wire.admit(number), terms.to_bytes(), fds)
        self._guests[number] = guest
        return number

    async def dismiss(self, number: int) -> None:
        """Have a session let go; returns when all of its attempts have been told."""
        if number not in self._guests or self._connection is None:
            return
        left = self._leaving[number] = asyncio.get_running_loop().create_future()
        try:
            self._connection.send(wire.dismiss(number))
            await asyncio.wait((left,), timeout=DISMISS_SECONDS)
            if not left.done() and self._connection is not None:
                log.error("the egress broker does not answer; it is killed, and another one takes its place")
                self._connection.kill()
                await left
        except Unavailable:
            pass
        finally:
            self._leaving.pop(number, None)
            self._guests.pop(number, None)

    def _on_report(self, report: Report, fds: list[int]) -> None:
        connection.close_all(fds)
        number = report["id"]
        if report["ev"] == "dismissed":
            if (left := self._leaving.get(number)) is not None and not left.done():
                left.set_result(None)
        elif (guest := self._guests.get(number)) is not None:
            guest.on_attempt(report)

    def _on_end(self) -> None:
        log.error("the egress broker ended; sessions that it looked after are lost, and another one takes its place")
        dead, self._connection = self._connection, None
        self._lose_all()
        self._ending = asyncio.get_running_loop().create_task(self._follow(dead))

    def _lose_all(self) -> None:
        for guest in tuple(self._guests.values()):
            guest.on_broker_lost()
        self._guests.clear()
        for left in self._leaving.values():
            if not left.done():
                left.set_result(None)

    async def _follow(self, dead: Connection | None) -> None:
        if dead is not None:
            await dead.close()
        while self._connection is None:
            try:
                await self.open()
            except Unavailable as error:
                log.error("%s", error)
                await asyncio.sleep(_RESTART_SECONDS)
