"""Drives flows over HTTP: one driver that blocks, one that awaits. The only module here that knows the HTTP library."""

import asyncio
import re
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, closing, contextmanager, suppress
from functools import partial
from socket import SHUT_RDWR
from typing import Any, Final, TypeVar

import httpx2

from enclave import __version__
from enclave.contracts.errors import ConnectionFailed, Unauthenticated
from enclave.sdk.claim import Claimed, unbroken, unbroken_task
from enclave.sdk.credential import Target
from enclave.sdk.flow import Api
from enclave.sdk.sign_in import SignInFile
from enclave.sdk.signing import Signed, Signing
from enclave.sdk.step import (
    Answer,
    Call,
    Claim,
    Deliver,
    Flow,
    Keep,
    Lost,
    Open,
    Pause,
    Reply,
    Step,
    Whole,
    advance,
)

T = TypeVar("T")

CONNECT_SECONDS: Final = 10.0
# A server says something, if only a comment, every few seconds: silence this long is a dead connection.
IDLE_SECONDS: Final = 60.0

_ERRNO: Final = re.compile(r"^\[Errno -?[0-9]+\] ")
_FAILURES: Final = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL)
_UNSENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol, httpx2.PoolTimeout)


class Driver:
    """Runs flows, blocking; its connections are kept and shared by all threads.

    `signed` is the sign-in that they go under, where that is what the target has for a credential.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self._timeout = timeout
        self._signed = _signed(target)
        self._file = SignInFile()
        with _settings(target) as settings:
            self._client = httpx2.Client(**settings)

    @property
    def signed(self) -> Signed:
        """The sign-in. Raises Unauthenticated if the client goes by another credential."""
        return _demanded(self._signed)

    def run(self, flow: Flow[T], within: float | None = None) -> T:
        """What the flow delivers. Raises TimeoutError after `within` seconds."""
        with closing(self.iterate(flow, within)) as deliveries:
            return next(deliveries).item

    def iterate(self, flow: Flow[T], within: float | None = None) -> Generator[Deliver[T], None, None]:
        """Everything the flow delivers, as it comes."""
        flow = flow if self._signed is None else self._signed.under(flow)
        return self._iterate(flow, _Deadline(within))

    def _iterate(self, flow: Flow[T], deadline: "_Deadline") -> Generator[Deliver[T], None, None]:
        line = _Line(self._client, self._timeout, deadline, Claimed(self._file))
        reply: Reply = None
        try:
            while (step := advance(flow, reply)) is not None:
                if isinstance(step, Deliver):
                    yield step
                    reply = None
                elif isinstance(step, Whole):
                    reply = unbroken(partial(self._whole, step.flow))
                else:
                    reply = line.perform(step)
        finally:
            flow.close()
            line.close()

    def _whole(self, flow: Flow[T]) -> T:
        # No deadline of the caller's: what comes of it is waited for.
        with closing(self._iterate(flow, _Deadline(None))) as deliveries:
            return next(deliveries).item

    def close(self) -> None:
        """Drop all connections."""
        self._client.close()


class AsyncDriver:
    """Runs flows on the event loop."""

    def __init__(self, target: Target, timeout: float) -> None:
        self._timeout = timeout
        self._signed = _signed(target)
        self._file = SignInFile()
        with _settings(target) as settings:
            self._client = httpx2.AsyncClient(**settings)

    @property
    def signed(self) -> Signed:
        """The sign-in. Raises Unauthenticated if the client goes by another credential."""
        return _demanded(self._signed)

    async def run(self, flow: Flow[T], within: float | None = None) -> T:
        """What the flow delivers. Raises TimeoutError after `within` seconds."""
        try:
            async with asyncio.timeout(within), aclosing(self.iterate(flow)) as deliveries:
                return (await anext(deliveries)).item
        except TimeoutError:
            raise _too_late(within) from None

    def iterate(self, flow: Flow[T]) -> AsyncGenerator[Deliver[T], None]:
        """Everything the flow delivers, as it comes."""
        return self._iterate(flow if self._signed is None else self._signed.under(flow))

    async def _iterate(self, flow: Flow[T]) -> AsyncGenerator[Deliver[T], None]:
        line = _AsyncLine(self._client, self._timeout, Claimed(self._file))
        reply: Reply = None
        try:
            while (step := advance(flow, reply)) is not None:
                if isinstance(step, Deliver):
                    yield step
                    reply = None
                elif isinstance(step, Whole):
                    reply = await unbroken_task(self._whole(step.flow))
                else:
                    reply = await line.perform(step)
        finally:
            flow.close()
            await line.close()

    async def _whole(self, flow: Flow[T]) -> T:
        async with aclosing(self._iterate(flow)) as deliveries:
            return (await anext(deliveries)).item

    async def aclose(self) -> None:
        """Drop all connections."""
        await self._client.aclose()


class _Line:
    """One flow's side of the wire: performs its steps, and holds the answer that it left open."""

    def __init__(self, client: httpx2.Client, timeout: float, deadline: "_Deadline", claimed: Claimed) -> None:
        self._client = client
        self._timeout = timeout
        self._deadline = deadline
        self._response: httpx2.Response | None = None
        self._pieces: Iterator[bytes] | None = None
        self._alarm: threading.Timer | None = None
        self._claimed = claimed

    def perform(self, step: Step[Any]) -> Reply:
        """The reply to a step. Raises TimeoutError."""
        try:
            reply = self._perform(step)
        except _FAILURES as error:
            reply = _lost(error)
        self._deadline.check()
        return reply

    def close(self) -> None:
        """Give up the open answer, if there is one."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm.join()
        self._claimed.release()
        if self._response is not None:
            self._response.close()
        self._response = self._pieces = self._alarm = None

    def _perform(self, step: Step[Any]) -> Reply:
        match step:
            case Call():
                response = self._client.send(_request(self._client, step, self._timeout, self._deadline.left()))
                return _answer(response)
            case Open(call):
                self.close()
                return self._open(_stream_request(self._client, call, self._timeout, self._deadline.left()))
            case Pause(seconds):
                time.sleep(min(seconds, self._deadline.left() or seconds))
                return None
            case Claim():
                return self._claimed.claim()
            case Keep(sign_in):
                self._claimed.keep(sign_in)
                return None
            case _:
                return b"" if self._pieces is None else next(self._pieces, b"")

    def _open(self, request: httpx2.Request) -> Reply:
        self._response = response = self._client.send(request, stream=True)
        if not _is_stream(response):
            response.read()
            return _answer(response)
        self._pieces = response.iter_bytes()
        self._alarm = _alarm(response, self._deadline.left())
        return Answer(response.status_code, streams=True)


class _AsyncLine:
    """The same for an async flow."""

    def __init__(self, client: httpx2.AsyncClient, timeout: float, claimed: Claimed) -> None:
        self._client = client
        self._timeout = timeout
        self._response: httpx2.Response | None = None
        self._pieces: AsyncGenerator[bytes, None] | None = None
        self._claimed = claimed

    async def perform(self, step: Step[Any]) -> Reply:
        """The reply to a step."""
        try:
            return await self._perform(step)
        except _FAILURES as error:
            return _lost(error)

    async def close(self) -> None:
        """Give up the open answer, if there is one."""
        response, pieces = self._response, self._pieces
        self._response = self._pieces = None
        self._claimed.release()
        if pieces is not None:
            await pieces.aclose()
        if response is not None:
            await response.aclose()

    async def _perform(self, step: Step[Any]) -> Reply:
        match step:
            case Call():
                return _answer(await self._client.send(_request(self._client, step, self._timeout)))
            case Open(call):
                await self.close()
                return await self._open(_stream_request(self._client, call, self._timeout))
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return None
            case Claim():
                return self._claimed.claim()
            case Keep(sign_in):
                self._claimed.keep(sign_in)
                return None
            case _:
                return b"" if self._pieces is None else await anext(self._pieces, b"")

    async def _open(self, request: httpx2.Request) -> Reply:
        self._response = response = await self._client.send(request, stream=True)
        if not _is_stream(response):
            await response.aread()
            return _answer(response)
        self._pieces = response.aiter_bytes()
        return Answer(response.status_code, streams=True)


class _Deadline:
    """When a blocking flow has to be over."""

    def __init__(self, within: float | None) -> None:
        self._within = within
        self._at = None if within is None else time.monotonic() + within

    def left(self) -> float | None:
        return None if self._at is None else max(self._at - time.monotonic(), 0.001)

    def check(self) -> None:
        if self._at is not None and time.monotonic() >= self._at:
            raise _too_late(self._within)


@contextmanager
def _settings(target: Target) -> Generator[dict[str, Any], None, None]:
    """What both kinds of client are made with; an environment they cannot be made in is told in one line."""
    headers = {"User-Agent": f"enclave-python/{__version__}"}
    headers |= {} if target.bearer is None else _authorization(target.bearer)
    secure = target.base_url.startswith("https:")
    # The system's certificates take longer to load than a whole session takes to run: only for whom they concern.
    verify = {} if secure else {"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}
    try:
        yield {"base_url": target.base_url, "headers": headers, "trust_env": not target.local, **verify}
    except (ValueError, ImportError) as error:
        raise ConnectionFailed(f"the environment's proxy settings cannot be used: {error}") from error


def _request(
    client: httpx2.Client | httpx2.AsyncClient, call: Call, timeout: float, left: float | None = None
) -> httpx2.Request:
    read = _least(timeout + call.patience_seconds, left)
    return client.build_request(
        call.operation.method,
        call.path,
        params=list(call.query) or None,
        headers=call.headers if call.bearer is None else {**call.headers, **_authorization(call.bearer)},
        content=call.body,
        timeout=httpx2.Timeout(_least(timeout, left), read=read, connect=_least(min(timeout, CONNECT_SECONDS), left)),
    )


def _stream_request(
    client: httpx2.Client | httpx2.AsyncClient, call: Call, timeout: float, left: float | None = None
) -> httpx2.Request:
    request = _request(client, call, timeout, left)
    request.extensions["timeout"]["read"] = _least(IDLE_SECONDS, left)
    return request


def _authorization(bearer: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {bearer}"}


def _signed(target: Target) -> Signed | None:
    return None if target.sign_in is None else Signed(Signing(Api(target.base_url)), target.sign_in)


def _demanded(signed: Signed | None) -> Signed:
    if signed is None:
        raise Unauthenticated("only a sign-in can do this, and this client goes by another credential: `enclave login`")
    return signed


def _least(seconds: float, left: float | None) -> float:
    return seconds if left is None else min(seconds, left)


def _is_stream(response: httpx2.Response) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.status_code == 200 and kind == "text/event-stream"


def _answer(response: httpx2.Response) -> Answer:
    return Answer(response.status_code, response.content, _seconds(response.headers.get("retry-after", "")))


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None


def _lost(error: Exception) -> Lost:
    late = isinstance(error, httpx2.TimeoutException)
    return Lost(_reason(error), unsent=isinstance(error, _UNSENT), late=late)


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "it did not answer in time"
    text = _ERRNO.sub("", " ".join(str(error).split()))
    return text[:200] or type(error).__name__


def _alarm(response: httpx2.Response, seconds: float | None) -> threading.Timer | None:
    """Ends a blocking read at the deadline: a server's comments would keep it alive for ever."""
    stream = response.extensions.get("network_stream")
    connection = None if stream is None else stream.get_extra_info("socket")
    if seconds is None or connection is None:
        return None
    alarm = threading.Timer(seconds, _hang_up, (connection,))
    alarm.daemon = True
    alarm.start()
    return alarm


def _hang_up(connection: Any) -> None:
    with suppress(OSError):
        connection.shutdown(SHUT_RDWR)


def _too_late(within: float | None) -> TimeoutError:
    return TimeoutError(f"not over after {within or 0:g} seconds")
