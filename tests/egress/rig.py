"""A binding on real sockets: a raw client, the code that serves it, and a TLS upstream that does what a test says."""

import asyncio
import contextlib
import dataclasses
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import h11
import trustme

from enclave.core.grant import Grant
from enclave.egress.service.binding import READ_LIMIT, Binding, Call, Limits, trust

HOST = "upstream.test"
SECRET = "s3cr3t-/+&é-token"
PLAIN = "sk_live_51Habcdef"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GRANT = Grant(name="bank", url=f"https://{HOST}", inject="bearer", secret=PLAIN)
QUICK = Limits(connect_seconds=5, request_seconds=5, answer_seconds=5, idle_seconds=5)


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def served_by(host: str = HOST) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(host).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@functools.cache
def trusting() -> ssl.SSLContext:
    with authority().cert_pem.tempfile() as path:
        return trust(path)


@dataclass
class Upstream:
    """What arrived: the raw heads, the bodies, how many connections, and how they were negotiated."""

    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    protocols: list[str | None] = field(default_factory=list)


@dataclass
class Rig:
    binding: Binding
    address: tuple[str, int]
    upstream: Upstream
    calls: list[Call]
    failures: list[BaseException]

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    async def say(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """All that is answered to these pieces, each sent by itself, until the connection ends."""
        reader, writer = await self.open()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if len(pieces) > 1:
                    await asyncio.sleep(0)
            if half_close:
                writer.write_eof()
            return await read_all(reader)
        except OSError:
            return await read_all(reader)
        finally:
            writer.close()

    async def get(self, target: str = "/", *headers: str, method: str = "GET", body: bytes = b"") -> "Answer":
        return parsed(await self.say(request(target, *headers, method=method, body=body)), method)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    said = b""
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            said += piece
    return said


def request(target: str = "/", *headers: str, method: str = "GET", body: bytes = b"", close: bool = True) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: bank", *headers]
    lines += ["Connection: close"] if close else []
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    complete: bool
    raw: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def parsed(raw: bytes, method: str = "GET") -> Answer:
    """The final answer in what was said."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    parser.receive_data(raw)
    parser.receive_data(b"")
    body, head, complete = b"", None, False
    with contextlib.suppress(h11.RemoteProtocolError):
        while not isinstance(event := parser.next_event(), h11.ConnectionClosed) and event is not h11.PAUSED:
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                complete = True
                break
    assert head is not None, raw
    return Answer(head.status_code, list(head.headers), body, complete, raw)


def answering(*answers: bytes, close: bool = False) -> Callable[[Upstream], Script]:
    """An upstream that reads whole requests and gives these answers in turn, the last one from then on."""
    return lambda upstream: functools.partial(_answering, upstream, answers, close)


async def _answering(
    upstream: Upstream,
    answers: tuple[bytes, ...],
    close: bool,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    while await read_request(upstream, reader):
        writer.write(answers[min(len(upstream.heads), len(answers)) - 1])
        await writer.drain()
        if close:
            return


async def read_request(upstream: Upstream, reader: asyncio.StreamReader) -> bool:
    """Read one whole request, and note it; False if there is no other."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return False
    upstream.heads.append(head)
    upstream.bodies.append(await _body(head.lower(), reader))
    return True


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    if b"content-length: " in head:
        return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    body = b""
    if b"transfer-encoding: chunked" in head:
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return body


def ok(body: bytes = b"hello", *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"Content-Length: %d" % len(body), b"", body])


def chunked(pieces: Iterable[bytes], *headers: bytes, trailers: bytes = b"") -> bytes:
    lines = [b"HTTP/1.1 200 OK", *headers, b"Transfer-Encoding: chunked", b"", b""]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return b"\r\n".join(lines) + body + b"0\r\n" + trailers + b"\r\n"


def noted(tasks: set[asyncio.Task[object]]) -> None:
    task = asyncio.current_task()
    assert task is not None
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def over(tasks: set[asyncio.Task[object]]) -> None:
    """Wait until all ended; a task that hangs fails the test."""
    async with asyncio.timeout(20):
        while tasks:
            await asyncio.wait([*tasks])


@contextlib.asynccontextmanager
async def rig(
    behaviour: Callable[[Upstream], Script] | None = None,
    *,
    limits: Limits = QUICK,
    host: str = HOST,
    context: ssl.SSLContext | None = None,
    **changes: object,
) -> AsyncIterator[Rig]:
    """A client's address, what serves it, and an upstream; `changes` are the grant's."""
    upstream, calls, failures = Upstream(), list[Call](), list[BaseException]()
    tasks, answering_tasks = set[asyncio.Task[object]](), set[asyncio.Task[object]]()
    grant = dataclasses.replace(GRANT, **changes)  # type: ignore[arg-type]
    script = (behaviour or answering(ok()))(upstream)
    binding = Binding(grant, context=context or trusting(), limits=limits)

    async def upstream_side(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        noted(answering_tasks)
        upstream.connections += 1
        tls = writer.get_extra_info("ssl_object")
        upstream.protocols.append(tls and tls.selected_alpn_protocol())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            await script(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        noted(tasks)
        try:
            await binding.serve(reader, writer, connect, calls.append)
        except BaseException as failure:  # noqa: BLE001 - told at the end
            failures.append(failure)

    tls = served_by(host) if grant.url.startswith("https") else None
    there = await asyncio.start_server(upstream_side, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
    here = await asyncio.start_server(served, "127.0.0.1", 0, limit=READ_LIMIT)

    async def connect(_host: str, _port: int) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, there.sockets[0].getsockname())
        return connection

    try:
        yield Rig(binding, here.sockets[0].getsockname(), upstream, calls, failures)
        await over(tasks)
    finally:
        binding.close()
        here.close()
        there.close()
        await over(answering_tasks)
    assert failures == []
