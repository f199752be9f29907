"""What a service binding costs: an HTTPS call with the secret injected, beside the same call made directly.

`python bench/binding.py [calls]`. Upstream, broker and client are processes of their own on loopback; both kinds of
call keep their connections, and are made in turn. The client of the binding speaks plain HTTP, as a sandbox does.
Nothing is asserted.
"""

import asyncio
import http.client
import multiprocessing
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import trustme

from enclave.core.grant import Grant
from enclave.egress.service.binding import READ_LIMIT, Binding, trust

HOST = "upstream.test"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024


def upstream(pem: str, port: Connection) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)

    asyncio.run(_serve(answer, port, context))


def broker(authority: str, upstream_port: int, port: Connection) -> None:
    async def connect(_host: str, _port: int) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", upstream_port))
        return connection

    grant = Grant(
        name="bench", url=f"https://{HOST}", inject="bearer", secret="sk_live_0123456789abcdef", paths=("/v1",)
    )

    async def run() -> None:
        binding = Binding(grant, context=trust(authority))
        await _serve(lambda reader, writer: binding.serve(reader, writer, connect, lambda call: None), port, None)

    asyncio.run(run())


async def _serve(act: Callable[..., object], port: Connection, context: ssl.SSLContext | None) -> None:
    server = await asyncio.start_server(act, "127.0.0.1", 0, ssl=context, limit=READ_LIMIT)  # type: ignore[arg-type]
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def started(target: Callable[..., None], *arguments: object) -> tuple[multiprocessing.Process, int]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    return process, ours.recv()


def milliseconds(connection: http.client.HTTPConnection) -> float:
    began = time.perf_counter()
    connection.request("GET", "/v1/items", headers={"Accept": "application/json"})
    if len(connection.getresponse().read()) != 1024:
        raise SystemExit("an answer went wrong")
    return (time.perf_counter() - began) * 1000


def told(name: str, values: list[float]) -> None:
    ordered = sorted(values)
    p50, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
    print(f"  {name:10} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms")


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as where:
        pem, trusted = Path(where) / "host.pem", Path(where) / "ca.pem"
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(pem)
        authority.cert_pem.write_to_path(trusted)
        there, upstream_port = started(upstream, str(pem))
        between, port = started(broker, str(trusted), upstream_port)
        context = trust(str(trusted))
        direct = http.client.HTTPSConnection("127.0.0.1", upstream_port, context=context)
        direct.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", upstream_port)), server_hostname=HOST)
        bound = http.client.HTTPConnection("127.0.0.1", port)
        for connection in (direct, bound):
            milliseconds(connection)
        pairs = [(milliseconds(direct), milliseconds(bound)) for _ in range(calls)]
        there.terminate()
        between.terminate()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {calls} calls of each kind, 1 KiB answered")
    told("direct", [one for one, _ in pairs])
    told("bound", [one for _, one in pairs])
    told("difference", [bound - direct for direct, bound in pairs])


if __name__ == "__main__":
    main()
