"""The name server of one sandbox: it answers from the session's policy, and never passes a question on."""

import asyncio
import contextlib
import socket
from typing import Any, Final

from enclave.egress import dns
from enclave.egress.ledger import Attempt, Ledger
from enclave.egress.pins import Pins, Unresolved

_PACKETS_AT_ONCE: Final = 8
_MOST_WAITING: Final = 64


class Resolver:
    """Answers what comes to a socket in the sandbox's network. It owns the socket."""

    def __init__(self, sock: socket.socket, pins: Pins, ledger: Ledger[Attempt]) -> None:
        self._sock = sock
        self._pins = pins
        self._ledger = ledger
        self._waiting: set[asyncio.Task[None]] = set()
        self._denied = ""
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    def close(self) -> None:
        """Answer no more."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for task in self._waiting:
            task.cancel()

    def _read(self) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                data, asker = self._sock.recvfrom(dns.MAX_QUERY + 1)
            except OSError:
                return
            self._take(data, asker)

    def _take(self, data: bytes, asker: Any) -> None:
        try:
            question = dns.read_question(data)
        except dns.Malformed:
            self._reply(dns.refusal(data), asker)
            return
        name = self._pins.allowed(question.name)
        if name is None:
            self._deny(question)
            self._reply(dns.answer(question, dns.NO_SUCH_NAME), asker)
        elif question.kind not in (dns.A, dns.AAAA):
            self._reply(dns.answer(question, dns.NO_ERROR), asker)
        elif len(self._waiting) < _MOST_WAITING:
            task = asyncio.ensure_future(self._resolve(question, name, asker))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    def _deny(self, question: dns.Question) -> None:
        # libc asks for each kind of address by itself: one look-up, one attempt.
        if question.kind != dns.AAAA or question.name != self._denied:
            name = question.name
            self._ledger.enter(Attempt(ev="denied", target=name, protocol="dns", name=name, why="no rule names it"))
        self._denied = question.name

    async def _resolve(self, question: dns.Question, name: str, asker: Any) -> None:
        try:
            addresses = await self._pins.addresses(name)
        except Unresolved:
            self._reply(dns.answer(question, dns.NO_SUCH_NAME), asker)
        else:
            self._reply(dns.answer(question, dns.NO_ERROR, addresses), asker)

    def _reply(self, reply: bytes | None, asker: Any) -> None:
        if reply is not None:
            with contextlib.suppress(OSError):
                self._sock.sendto(reply, asker)
