"""A session's way to the broker: nothing of it is used, or costs anything, until the session asks for something."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from enclave.backends.base import Egress, Invocation, Told, Violation
from enclave.backends.local.broker import Broker
from enclave.backends.local.connection import Report, close_all
from enclave.contracts.errors import Unavailable
from enclave.egress import notification
from enclave.egress.wire import Terms


class Gate:
    """Gives a sandbox's listener and sockets to the broker: at once if its session may reach anything, else when a
    call waits or a name is looked up. `tell` is told what the session attempts, `lose` why it cannot go on.
    """

    def __init__(self, broker: Broker, terms: Terms, tell: Callable[[Told], None], lose: Callable[[str], None]) -> None:
        self._broker = broker
        self._terms = terms
        self._tell = tell
        self._lose = lose
        self._fds: Sequence[int] = ()
        self._number: int | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @property
    def used(self) -> bool:
        """Whether the broker looks after the session."""
        return self._number is not None

    def open(self, listener: int, resolver: int, *door: int) -> None:
        """Take over what the launcher took of the sandbox."""
        self._fds = (listener, resolver, *door)
        if self._closed:
            self._drop()
        elif self._terms.opens:
            self._admit()
        else:
            for fd in self._fds:
                self._loop.add_reader(fd, self._asked, fd)

    async def close(self) -> None:
        """Return when everything that was attempted has been told, and nothing is held any more."""
        self._closed = True
        self._drop()
        if self._number is not None:
            await self._broker.dismiss(self._number)

    def on_attempt(self, report: Report) -> None:
        """The broker tells of an attempt."""
        if report["ev"] == "lost":
            self._lose(report["why"])
        else:
            self._tell(_KINDS[report["ev"]](report))

    def on_broker_lost(self) -> None:
        """The broker is gone."""
        self._number = None
        self._lose("the egress broker ended")

    def _asked(self, fd: int) -> None:
        try:
            asked = notification.waits(fd)
        except notification.Over:
            self._loop.remove_reader(fd)
            return
        if asked:
            self._admit()

    def _admit(self) -> None:
        fds, self._fds = self._unwatched(), ()
        try:
            self._number = self._broker.admit(self, self._terms, fds)
        except Unavailable as error:
            self._lose(error.detail)

    def _drop(self) -> None:
        fds, self._fds = self._unwatched(), ()
        close_all(fds)

    def _unwatched(self) -> Sequence[int]:
        for fd in self._fds:
            self._loop.remove_reader(fd)
        return self._fds


def _egress(report: Report) -> Egress:
    return Egress(
        verdict=report["ev"],
        target=report["target"],
        port=report["port"],
        protocol=report["protocol"],
        name=report["name"],
        rule=report["rule"],
        reason=report["why"],
        count=report["count"],
        sent_bytes=report["sent"],
        received_bytes=report["received"],
        seconds=report["seconds"],
    )


def _invocation(report: Report) -> Invocation:
    return Invocation(
        binding=report["binding"],
        method=report["method"],
        path=report["path"],
        status=report["status"],
        sent_bytes=report["sent"],
        received_bytes=report["received"],
        seconds=report["seconds"],
        error=report["error"],
        count=report["count"],
    )


_KINDS: Final[dict[str, Callable[[Any], Told]]] = {
    "allowed": _egress,
    "denied": _egress,
    "closed": _egress,
    "invoked": _invocation,
    "violated": lambda report: Violation(report["call"]),
}
