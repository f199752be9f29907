"""One session as the broker looks after it: each call of its programs that names an address is decided here.

Nothing here trusts what can change behind its back. What is let go on to the kernel leads nowhere even if its
arguments change: a sandbox has no network but its own. A session that was handed a socket of this machine is the one
exception, and of a session that can be, no connect ever goes on: it is made here, on a copy of the very socket.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from enclave.core.egress import Rules, Verdict, canonical, decide
from enclave.egress import caller, inside, outgoing, sockdiag
from enclave.egress.address import Address, Internet
from enclave.egress.door import Door
from enclave.egress.ledger import Attempt, Invoked, Ledger, Transport
from enclave.egress.notification import Call, Gone, Listener, Over
from enclave.egress.outgoing import Outgoing
from enclave.egress.pins import Pins
from enclave.egress.resolver import Resolver
from enclave.egress.service.binding import READ_LIMIT, Services
from enclave.sandbox import linux
from enclave.sandbox.syscalls import NUMBERS

_OBITUARY_SECONDS: Final = 0.5
_SENDS: Final = ("sendto", "sendmsg", "sendmmsg")
_NAMES: Final = {pair[linux.MACHINE != "x86_64"]: name for name, pair in NUMBERS.items()}
_OWN: Final = "it is an address of the machine itself, or there is no way to it"
_DATAGRAM: Final = "only TCP leaves a sandbox"


@dataclass(slots=True)
class Load:
    """How many connections are made or carried now, of all sessions, and the most of them all and of one."""

    most: int
    most_of_one: int
    now: int = 0

    def full(self, of_one: int) -> bool:
        """Whether a session that has so many may have no more."""
        return self.now >= self.most or of_one >= self.most_of_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a session is given by the broker: the kernel's routes, whom to tell what, and its bindings."""

    leads_away: Callable[[IPv4Address | IPv6Address], bool]
    tell: Callable[[Attempt], None]
    violated: Callable[[str], None]
    services: Services
    calls: Ledger[Invoked]
    load: Load


class Session:
    """Decides, connects and records for one sandbox, until it is closed. It owns the descriptors it is given."""

    def __init__(self, rules: Rules, listener: int, sockets: Sequence[socket.socket], around: Surroundings) -> None:
        self._rules = rules
        self._around = around
        self._listener = Listener(listener)
        self._ledger = Ledger(around.tell)
        self._pins = Pins(rules, around.leads_away)
        self._resolver = Resolver(sockets[0], self._pins, self._ledger)
        self._door = Door(sockets[1], self._visited) if len(sockets) > 1 else None
        self._handed: dict[int, outgoing.Handed] = {}
        self._violated = False
        self._all_told: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener, self._take)

    async def close(self) -> None:
        """Break off every connection that is carried, and tell what is left to be told."""
        self._loop.remove_reader(self._listener.fd)
        self._resolver.close()
        self._pins.close()
        if self._door is not None:
            self._door.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._around.services.close()
        await self._settle_handed()
        self._ledger.settle(last=True)
        self._around.calls.settle(last=True)
        os.close(self._listener.fd)

    async def _settle_handed(self) -> None:
        for handed in tuple(self._handed.values()):
            if (found := sockdiag.measure(handed.identity)) is not None:
                self.closed(found)
        # The kernel tells of the others from a queue of its own, a moment after they are gone.
        self._all_told = self._loop.create_future()
        if self._handed:
            await asyncio.wait((self._all_told,), timeout=_OBITUARY_SECONDS)
        for handed in tuple(self._handed.values()):
            self.closed(sockdiag.Closed(handed.identity.cookie, 0, 0))

    def settle(self) -> None:
        """Tell what was summed up since the last time."""
        self._ledger.settle()
        self._around.calls.settle()

    def closed(self, closed: sockdiag.Closed) -> bool:
        """A socket of this machine was closed; whether it was one that was handed over here."""
        handed = self._handed.pop(closed.cookie, None)
        if handed is not None:
            self._ledger.enter(handed.ended(closed.sent, closed.received))
        if self._all_told is not None and not self._handed and not self._all_told.done():
            self._all_told.set_result(None)
        return handed is not None

    # -- calls -----------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        # One at a time: the loop goes round, and no session keeps another waiting.
        try:
            call = self._listener.take()
        except Over:
            self._loop.remove_reader(self._listener.fd)
            return
        if call is not None:
            self._answer(call)

    def _answer(self, call: Call) -> None:
        try:
            self._decide(call)
        except OSError as error:
            # Its memory or its descriptor is not what it says: what the kernel would have answered.
            self._listener.answer(call, error.errno or errno.EFAULT)
        except Gone:
            return

    def _decide(self, call: Call) -> None:
        name = _NAMES.get(call.number, "")
        if name == "connect":
            self._connect(call, caller.address_at(call, call.arguments[1], call.arguments[2] & 0xFFFFFFFF))
        elif name in _SENDS:
            self._send(call, name)
        else:
            # It stays where it is until its session is ended for it, and one that says so is enough.
            if not self._violated:
                self._around.violated(name)
            self._violated = True

    def _send(self, call: Call, name: str) -> None:
        for address in _named_by(call, name):
            if isinstance(address, Internet) and not _is_within(address):
                self._deny(call, address, _DATAGRAM, protocol="udp")
                return
        self._listener.go_on(call)

    def _connect(self, call: Call, address: Address) -> None:
        if not self._listener.waits(call):
            raise Gone
        if isinstance(address, Internet) and not _is_within(address):
            self._connect_out(call, address)
        elif self._rules.raw:
            if self._around.load.full(len(self._tasks)):
                raise OSError(errno.EAGAIN, "connect")
            self._begin(call, self._connect_within(call, address))
        else:
            self._listener.go_on(call)

    async def _connect_within(self, call: Call, address: Address) -> None:
        with self._socket_of(call) as theirs:
            if self._is_handed(theirs):
                raise OSError(errno.EISCONN, "connect")
            await inside.connect(inside.Caller(call, self._listener), theirs, address)
        self._listener.answer(call)

    def _is_handed(self, theirs: socket.socket) -> bool:
        return caller.cookie_of(theirs) in self._handed or caller.is_of_this_machine(theirs)

    def _socket_of(self, call: Call) -> socket.socket:
        copy = caller.copy_of(call, _place(call))
        # Only if the call still waits was it that thread's, and not that of one that has its number since.
        if not self._listener.waits(call):
            copy.close()
            raise Gone
        return copy

    def _connect_out(self, call: Call, target: Internet) -> None:
        with contextlib.ExitStack() as left:
            theirs = left.enter_context(self._socket_of(call))
            if theirs.family != target.family:
                raise OSError(errno.EAFNOSUPPORT, "connect")
            if theirs.type != socket.SOCK_STREAM:
                self._refuse_datagrams(call, target)
                return
            if caller.has_peer(theirs):
                raise OSError(errno.EISCONN, "connect")
            verdict = self._verdict(target)
            if not verdict.allowed:
                self._deny(call, target, verdict.why, rule=verdict.rule)
                return
            if verdict.names and self._is_handed(theirs):
                # It is of this machine's network: what is carried goes by the sandbox's own.
                raise OSError(errno.EISCONN, "connect")
            left.pop_all()
            self._begin(call, self._make(Outgoing(call, theirs, target, verdict)))

    def _make(self, made: Outgoing) -> Coroutine[Any, Any, None]:
        if not made.verdict.names:
            return outgoing.hand_over(made, self._listener, self._ledger, self._handed)
        if self._door is None:
            raise OSError(errno.EACCES, "connect")
        return outgoing.carry(made, self._listener, self._ledger, self._door)

    def _refuse_datagrams(self, call: Call, target: Internet) -> None:
        if self._pins.names(canonical(target.packed)):
            # libc orders the addresses of a name by whether a datagram socket can be connected to them: no attempt.
            self._listener.answer(call, errno.ENETUNREACH)
        else:
            self._deny(call, target, _DATAGRAM, protocol="udp")

    def _verdict(self, target: Internet) -> Verdict:
        address = canonical(target.packed)
        verdict = decide(self._rules, address, target.port, self._pins.names(address))
        if verdict.allowed and not self._around.leads_away(address):
            return Verdict(False, None, _OWN, ())
        if verdict.allowed and self._around.load.full(len(self._tasks)):
            return Verdict(False, None, "too many connections at once", ())
        return verdict

    def _deny(
        self, call: Call, target: Internet, why: str, *, protocol: Transport = "tcp", rule: str | None = None
    ) -> None:
        address = canonical(target.packed)
        name = min(self._pins.names(address), default=None)
        self._ledger.enter(
            Attempt(
                ev="denied", target=str(address), port=target.port, protocol=protocol, name=name, rule=rule, why=why
            )
        )
        self._listener.answer(call, errno.EACCES)

    def _visited(self, ours: socket.socket, address: str) -> None:
        if self._around.load.full(len(self._tasks)):
            ours.close()
            return
        self._keep(self._serve(ours, address))

    async def _serve(self, ours: socket.socket, address: str) -> None:
        client, writer = await asyncio.open_connection(sock=ours, limit=READ_LIMIT)
        try:
            await self._around.services.serve(address, client, writer)
        finally:
            writer.close()

    def _begin(self, call: Call, making: Coroutine[Any, Any, None]) -> None:
        self._keep(self._finish(call, making))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        self._around.load.now += 1
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._around.load.now -= 1

    async def _finish(self, call: Call, making: Coroutine[Any, Any, None]) -> None:
        try:
            await making
        except OSError as error:
            # If it was answered before, it waits no more, and this is nothing.
            self._listener.answer(call, error.errno or errno.ECONNREFUSED)
        except Gone:
            return


def _place(call: Call) -> int:
    return call.arguments[0] & 0xFFFFFFFF


def _named_by(call: Call, name: str) -> list[Address]:
    arguments = call.arguments
    if name == "sendto":
        return [caller.address_at(call, arguments[4], arguments[5] & 0xFFFFFFFF)]
    count = arguments[2] & 0xFFFFFFFF if name == "sendmmsg" else None
    return caller.message_addresses(call, arguments[1], count)


def _is_within(address: Internet) -> bool:
    """Whether it is an address of the sandbox's own network, which is its loopback and nothing else."""
    plain = canonical(address.packed)
    return plain.is_loopback or plain.is_unspecified
