"""The two ways out: a socket that is handed over, and a connection that is carried."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
import time
from dataclasses import dataclass, replace
from typing import Final

from enclave.core.egress import Verdict, canonical
from enclave.egress import caller, carried, raw
from enclave.egress.address import Internet
from enclave.egress.carried import Refused
from enclave.egress.door import Door
from enclave.egress.inside import not_blocking, writable_end
from enclave.egress.ledger import Attempt, Ledger
from enclave.egress.notification import Call, Listener
from enclave.egress.relay import Moved
from enclave.egress.sockdiag import Identity, identity_of

CONNECT_SECONDS: Final = 30.0
"""How long the other side may take to answer; the sandbox's own limits may end it earlier."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A connect that may be made: the call, a copy of the caller's socket, where to, and why it may."""

    call: Call
    theirs: socket.socket
    target: Internet
    verdict: Verdict

    def allowed(self, name: str | None = None) -> Attempt:
        """What is told of it when it is allowed."""
        address = str(canonical(self.target.packed))
        return Attempt(ev="allowed", target=address, port=self.target.port, name=name, rule=self.verdict.rule)


@dataclass(frozen=True, slots=True)
class Handed:
    """A socket that was handed over, until the kernel tells that it is closed."""

    attempt: Attempt
    identity: Identity
    since: float

    def ended(self, sent: int, received: int) -> Attempt:
        """What is told of its end."""
        return self.attempt.closed(sent, received, time.monotonic() - self.since)


async def hand_over(made: Outgoing, listener: Listener, ledger: Ledger[Attempt], handed: dict[int, Handed]) -> None:
    """Connect a socket of this machine and put it in the place of the caller's. Raises OSError and Gone."""
    attempt = made.allowed()
    ledger.enter(attempt)
    with made.theirs, raw.twin_of(made.theirs, made.target) as twin:
        began = time.monotonic()
        try:
            under_way = await _connect(twin, made.target, wait=os.get_blocking(made.theirs.fileno()))
            identity = identity_of(twin, made.target)
            handed[identity.cookie] = Handed(attempt, identity, began)
            _plant(made, listener, twin)
        except BaseException as error:
            handed.pop(caller.cookie_of(twin), None)
            ledger.enter(attempt.closed(seconds=time.monotonic() - began, why=_reason(error)))
            raise
        listener.answer(made.call, under_way)


def _plant(made: Outgoing, listener: Listener, twin: socket.socket) -> None:
    place = made.call.arguments[0] & 0xFFFFFFFF
    os.set_blocking(twin.fileno(), os.get_blocking(made.theirs.fileno()))
    listener.plant(made.call, twin.fileno(), place, close_on_exec=caller.closes_on_exec(made.call, place))


async def carry(made: Outgoing, listener: Listener, ledger: Ledger[Attempt], door: Door) -> None:
    """Connect the caller's socket to the broker, and the broker to the target. Raises OSError and Gone."""
    with made.theirs, socket.socket(made.target.family, socket.SOCK_STREAM) as outside:
        outside.setblocking(False)
        try:
            ours = await _meet(made, listener, door, outside)
        except OSError as error:
            attempt = made.allowed(min(made.verdict.names))
            ledger.enter(attempt)
            ledger.enter(attempt.closed(why=_reason(error)))
            raise
        made.theirs.close()
        with ours:
            await _converse(made, ours, outside, ledger)


async def _meet(made: Outgoing, listener: Listener, door: Door, outside: socket.socket) -> socket.socket:
    """Both connections made and the call answered; our end of the sandbox's one. Raises OSError."""
    with not_blocking(made.theirs) as blocked:
        if blocked:
            await _connect(outside, made.target, wait=True)
        arriving = await door.knock(made.theirs)
        if not blocked:
            listener.answer(made.call, errno.EINPROGRESS)
        ours = await arriving
    if blocked:
        listener.answer(made.call)
        return ours
    try:
        await _connect(outside, made.target, wait=True)
    except BaseException:
        break_off(ours)
        raise
    return ours


async def _converse(made: Outgoing, ours: socket.socket, outside: socket.socket, ledger: Ledger[Attempt]) -> None:
    since, moved = time.monotonic(), Moved()
    try:
        name, hello = await carried.hello(ours, made.verdict.names)
    except Refused as refused:
        ledger.enter(replace(made.allowed(refused.name), ev="denied", why=str(refused)))
        break_off(ours)
        return
    attempt = made.allowed(name)
    ledger.enter(attempt)
    try:
        await carried.carry(ours, outside, hello, moved)
    finally:
        ledger.enter(attempt.closed(moved.sent, moved.received, time.monotonic() - since))


async def _connect(sock: socket.socket, target: Internet, *, wait: bool) -> int:
    """Connect, or begin to: 0 or EINPROGRESS. Raises OSError."""
    error = sock.connect_ex(target.for_connect())
    if error == errno.EINPROGRESS and wait:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await writable_end(sock)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
    return error


def break_off(sock: socket.socket) -> None:
    """Close so that the other side is told that something is wrong (SO_LINGER of socket(7))."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    sock.close()


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or "it was broken off"
