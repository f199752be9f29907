"""The broker: it admits sessions for the control plane, looks after each, and reports what they attempt."""

import asyncio
import logging
import os
import resource
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Final

from enclave.core.egress import Floor, parse_rules
from enclave.egress import wire
from enclave.egress.ledger import Attempt, Invoked, Ledger
from enclave.egress.route import Routes
from enclave.egress.service.binding import Call, Services, trust
from enclave.egress.session import Load, Session, Surroundings
from enclave.egress.sockdiag import Closed, Obituaries
from enclave.egress.upstreams import Upstreams
from enclave.sandbox import wire as message

_SETTLE_SECONDS: Final = 1.0
_RESOLVING: Final = 64

log = logging.getLogger(__name__)


class Broker:
    """All sessions of one control plane, held by the other end of a SEQPACKET socket."""

    def __init__(self, control: socket.socket, floor: Floor) -> None:
        self._control = control
        # One that cannot be used must keep the broker from standing, not each session from being admitted.
        parse_rules((), floor.deny, floor.private)
        trust(floor.authorities)
        self._floor = floor
        self._routes = Routes()
        self._upstreams = Upstreams(self._routes.leads_away, floor.private)
        self._sessions: dict[int, Session] = {}
        self._reports: deque[Mapping[str, Any]] = deque()
        self._over = asyncio.Event()
        self._load = Load(*_most_connections())
        self._loop = asyncio.get_running_loop()
        # Look-ups of names wait in threads; a session has few at once, so that slow ones of some keep none waiting.
        self._loop.set_default_executor(ThreadPoolExecutor(_RESOLVING, "resolve"))
        self._obituaries: Obituaries | None = None

    async def run(self) -> None:
        """Serve until the control plane goes away."""
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._read)
        self._report({"ev": "up"})
        while not self._over.is_set():
            for session in tuple(self._sessions.values()):
                session.settle()
            try:
                await asyncio.wait_for(self._over.wait(), _SETTLE_SECONDS)
            except TimeoutError:
                continue

    # -- messages --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while not self._over.is_set():
            try:
                data, fds = message.receive(self._control, 4)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._over.set()
                return
            self._take(wire.read(data), fds)

    def _take(self, order: Mapping[str, Any], fds: list[int]) -> None:
        match order["op"]:
            case "admit":
                self._admit(order["id"], fds)
            case "dismiss":
                self._loop.create_task(self._dismiss(order["id"]))

    def _admit(self, number: int, fds: Sequence[int]) -> None:
        try:
            self._look_after(number, fds)
        except Exception as error:
            log.exception("a session could not be admitted")
            for listener in fds[1:2]:
                os.close(listener)  # the others are closed by who holds them
            self._report({"ev": "lost", "id": number, "why": f"the egress broker could not look after it: {error!r}"})

    def _look_after(self, number: int, fds: Sequence[int]) -> None:
        terms = wire.read_terms(fds[0])
        rules = parse_rules(terms.allow, (*terms.deny, *self._floor.deny), self._floor.private)
        if rules.raw:
            self._follow_sockets()
        sockets = [socket.socket(fileno=fd) for fd in fds[2:]]
        self._sessions[number] = Session(rules, fds[1], sockets, self._surroundings(number, terms))

    def _surroundings(self, number: int, terms: wire.Terms) -> Surroundings:
        def tell(attempt: Attempt) -> None:
            self._report({"id": number, **attempt.to_fields()})

        def violated(call: str) -> None:
            self._report({"ev": "violated", "id": number, "call": call})

        calls = Ledger[Invoked](lambda told: self._report({"ev": "invoked", "id": number, **told.to_fields()}))

        def invoked(call: Call) -> None:
            calls.enter(Invoked(**asdict(call)))

        services = Services(terms.places(), trust(self._floor.authorities), self._upstreams.connect, invoked)
        return Surroundings(
            leads_away=self._routes.leads_away,
            tell=tell,
            violated=violated,
            services=services,
            calls=calls,
            load=self._load,
        )

    async def _dismiss(self, number: int) -> None:
        if (session := self._sessions.get(number)) is not None:
            await session.close()
            self._sessions.pop(number, None)
        self._report({"ev": "dismissed", "id": number})

    def _follow_sockets(self) -> None:
        # Told of every TCP socket of the machine, so only once there may be one that was handed over.
        if self._obituaries is None:
            self._obituaries = Obituaries(self._closed)
            self._loop.add_reader(self._obituaries.sock, self._obituaries.read)

    def _closed(self, closed: Closed) -> None:
        for session in self._sessions.values():
            if session.closed(closed):
                return

    # -- reports ---------------------------------------------------------------------------------------------------

    def _report(self, report: Mapping[str, Any]) -> None:
        self._reports.append(report)
        if len(self._reports) == 1:
            self._send()

    def _send(self) -> None:
        while self._reports:
            try:
                message.send_report(self._control, self._reports[0])
            except BlockingIOError:
                self._loop.add_writer(self._control, self._send)
                return
            except OSError:
                self._over.set()
                return
            self._reports.popleft()
        self._loop.remove_writer(self._control)


_DESCRIPTORS_EACH: Final = 8
_DESCRIPTORS_BESIDE: Final = 1024


def _most_connections() -> tuple[int, int]:
    """How many connections may be carried at once, and how many of one session, with the descriptors there are."""
    most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _DESCRIPTORS_BESIDE) // _DESCRIPTORS_EACH
    return max(most, 64), max(most // 2, 32)


def serve(control: socket.socket) -> None:
    """Be a broker for whoever holds the other end."""
    asyncio.run(_serve(control, wire.read_floor(message.receive(control, 0)[0])))
    # Threads may still wait for the resolver; nobody waits for them.
    os._exit(0)


async def _serve(control: socket.socket, floor: Floor) -> None:
    await Broker(control, floor).run()
