"""Webhooks over HTTPS, to addresses that were checked and no others.

A receiver is whoever a caller named, and hostile until shown otherwise: every address of its name is held against the
rules of egress, the connection is made to one that was, what it answers is read by h11 up to its head, and no more of
it is kept than a status.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, Self

import h11

from enclave.core.address import Address, Network, canonical
from enclave.core.egress import Floor, Rules
from enclave.core.receiver import Receiver
from enclave.core.rule import parse_rule
from enclave.core.upstream import Malformed
from enclave.core.webhook import ATTEMPT_SECONDS
from enclave.egress.route import Routes
from enclave.egress.service.upstream import Channel, trust
from enclave.egress.upstreams import Upstreams, dial
from enclave.webhook.base import Answer, Post
from enclave.webhook.lookup import GetAddrInfo, Lookup, Unresolved

_PIECE: Final = 8192
_MAX_HEAD: Final = 16384
_MAX_INTERIM: Final = 8
_CONNECT_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = 1.0
_DRAIN_BYTES: Final = 8192
_AGENT: Final = ("user-agent", "Enclave-Webhook/1")
_JSON: Final = ("content-type", "application/json")


class Undelivered(Exception):
    """Why there is no answer. The text is shown to the org, and repeats nothing that the receiver said."""


@dataclass(frozen=True, slots=True)
class Walls:
    """What webhooks are held to: which addresses may be called at all, and what the operator denies whatever they are.

    `private` are the networks that the operator gave leave for; `authorities` is a PEM file of certificates that are
    trusted beside the system's.
    """

    upstreams: Upstreams
    denied: Rules
    private: tuple[Network, ...]
    authorities: str | None

    @classmethod
    def of(cls, floor: Floor, leads_away: Callable[[Address], bool]) -> Self:
        """The walls under the operator's floor."""
        return cls(
            upstreams=Upstreams(leads_away, floor.private),
            denied=Rules((), tuple(parse_rule(text) for text in floor.deny)),
            private=tuple(ip_network(text) for text in floor.private),
            authorities=floor.authorities,
        )

    def receiver(self, url: str) -> Receiver:
        """The receiver at a URL, which was accepted once, and may be no more. Raises Undelivered."""
        try:
            return Receiver.parse(url, self.private)
        except Malformed as error:
            raise Undelivered(f"the URL {error}") from None

    def check(self, receiver: Receiver, addresses: Iterable[Address]) -> None:
        """Pass if every address of a receiver may be called. Raises Undelivered."""
        for address in addresses:
            if not self.upstreams.allowed(address):
                raise Undelivered("an address of the host is private, local or reserved")
            if self.denied.denied(address, receiver.port, (receiver.host,)) is not None:
                raise Undelivered("the operator denies the host, or an address of it")


class HttpsSender:
    """The Sender of a control plane."""

    def __init__(self, walls: Walls, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._walls = walls
        self._getaddrinfo = getaddrinfo

    async def send(self, post: Post) -> Answer:
        """Post a message, once."""
        attempt = _Attempt(self._walls, post)
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await attempt.make(self._getaddrinfo)
        except TimeoutError:
            why = f"{attempt.waits_for} within {ATTEMPT_SECONDS:g} s"
        except ssl.SSLCertVerificationError as error:
            why = f"the certificate is not trusted: {error.verify_message}"
        except ssl.SSLEOFError:
            why = "the receiver closed the connection"
        except ssl.SSLError as error:
            why = f"no TLS: {error.reason}"
        except OSError as error:
            why = f"no connection: {os.strerror(error.errno) if error.errno else type(error).__name__}"
        except h11.ProtocolError:
            why = "the answer is not HTTP/1.1, or its head is too large"
        except Undelivered as error:
            why = str(error)
        return Answer(error=why, lingering=attempt.lingering)


@contextlib.contextmanager
def sending(floor: Floor) -> Iterator[HttpsSender]:
    """A sender under the operator's floor, on this machine."""
    with contextlib.closing(Routes()) as routes:
        yield HttpsSender(Walls.of(floor, routes.leads_away))


class _Attempt:
    """One message on its way."""

    def __init__(self, walls: Walls, post: Post) -> None:
        self._walls = walls
        self._post = post
        self._lookup: Lookup | None = None
        self.waits_for = "the name was not resolved"

    @property
    def lingering(self) -> asyncio.Future[None] | None:
        """The look-up, while it lasts."""
        return None if self._lookup is None or self._lookup.done.done() else self._lookup.done

    async def make(self, getaddrinfo: GetAddrInfo) -> Answer:
        """The receiver's answer. Raises Undelivered, OSError and h11.ProtocolError."""
        receiver = self._walls.receiver(self._post.url)
        addresses = await self._addresses(receiver.host, getaddrinfo)
        self._walls.check(receiver, addresses)
        self.waits_for = "no connection"
        channel = Channel(await _first(addresses, receiver.port))
        try:
            if receiver.secure:
                await channel.secure(trust(self._walls.authorities), receiver.host)
            self.waits_for = "no answer"
            return await _exchange(channel, _request(receiver, self._post), self._post.body)
        finally:
            channel.close()

    async def _addresses(self, host: str, getaddrinfo: GetAddrInfo) -> tuple[Address, ...]:
        with contextlib.suppress(ValueError):
            return (canonical(host),)
        self._lookup = Lookup(host, getaddrinfo)
        try:
            return await self._lookup.addresses()
        except Unresolved:
            raise Undelivered("the host's name does not resolve") from None


async def _first(addresses: Iterable[Address], port: int) -> socket.socket:
    """A connection to the first address that takes one. Raises OSError."""
    failures: list[OSError] = []
    for address in addresses:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await dial(address, port)
        except TimeoutError:
            failures.append(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
        except OSError as error:
            failures.append(error)
    raise failures[0]


def _request(receiver: Receiver, post: Post) -> h11.Request:
    own = (
        ("host", receiver.authority),
        _AGENT,
        _JSON,
        ("content-length", str(len(post.body))),
        ("connection", "close"),
    )
    return h11.Request(method="POST", target=receiver.target, headers=[*own, *post.headers.items()])


async def _exchange(channel: Channel, request: h11.Request, body: bytes) -> Answer:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    head = connection.send(request)
    sent = (head, connection.send(h11.Data(data=body)), connection.send(h11.EndOfMessage()))
    await channel.send(b"".join(part for part in sent if part))
    response = await _head(channel, connection)
    await _drain(channel, connection)
    return Answer(status=response.status_code, retry_after=_seconds(response))


async def _head(channel: Channel, connection: h11.Connection) -> h11.Response:
    for _ in range(_MAX_INTERIM):
        event = await _event(channel, connection)
        if isinstance(event, h11.Response):
            return event
        if not isinstance(event, h11.InformationalResponse):
            raise Undelivered("the connection was closed without an answer")
    raise Undelivered("the answer does not come to its end")


async def _drain(channel: Channel, connection: h11.Connection) -> None:
    """Take what little a receiver usually says, so that it need not see its words refused; what it says is nothing."""
    left = _DRAIN_BYTES
    with contextlib.suppress(OSError, h11.ProtocolError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0 and isinstance(data := await _event(channel, connection), h11.Data):
                left -= len(data.data)


async def _event(channel: Channel, connection: h11.Connection) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await channel.read(_PIECE))
    return event


def _seconds(response: h11.Response) -> float | None:
    # The form with a date is for browsers; nobody's clock is asked for here.
    asked = [value for name, value in response.headers if name == b"retry-after"]
    return float(asked[0]) if len(asked) == 1 and asked[0].isdigit() and len(asked[0]) < 10 else None
