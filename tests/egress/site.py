"""What a sandbox may or may not reach: a network of two namespaces, the broker in one and servers in the other.

The broker is started within its namespace, so nothing of the machine's own network is touched, and names are those of
`/etc/netns/<namespace>/hosts` (ip-netns(8)).
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import trustme

from enclave.backends.local import broker
from enclave.backends.local.connection import Program

HERE, SERVER, OTHER = "198.18.7.1", "198.18.7.2", "198.18.7.3"
"""The broker's own address; the servers', of which no test allows the second."""

NAMES = {"api.example.test": SERVER, "also.example.test": SERVER, "other.example.test": OTHER}
HOSTS = NAMES | {
    "own.example.test": HERE,
    "metadata.example.test": "169.254.169.254",
    "inside.example.test": "10.1.2.3",
}

_SERVERS = """
import asyncio, ssl, sys
async def http(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            path = head.split()[1]
            body = bytes(int(path[5:])) if path.startswith(b"/big/") else head
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
def counted(host, port, act):
    def met(reader, writer):
        print(f"{host}:{port}", flush=True)
        return act(reader, writer)
    return met
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    for host in sys.argv[2:]:
        await asyncio.start_server(counted(host, 80, http), host, 80, backlog=1024)
        await asyncio.start_server(counted(host, 443, http), host, 443, ssl=context)
        await asyncio.start_server(counted(host, 7, echo), host, 7, backlog=2048)
    print("up", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@dataclass
class Site:
    """A network with servers; `met` are the connections that they have seen."""

    edge: str
    authorities: Path
    servers: "subprocess.Popen[str]"
    met: list[str] = field(default_factory=list)

    def seen(self) -> list[str]:
        """The connections so far, as `address:port`."""
        assert self.servers.stdout is not None
        told = self.servers.stdout.fileno()
        os.set_blocking(told, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(told, 1 << 16):
                self.met += data.decode().split()
        return self.met


def available() -> bool:
    """Whether such a network can be made here."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextlib.contextmanager
def network(home: Path) -> Iterator[Site]:
    """Make the network and its servers, and take them away again."""
    edge, far = f"enclave-edge-{os.getpid()}", f"enclave-far-{os.getpid()}"
    hosts = Path("/etc/netns") / edge
    with contextlib.ExitStack() as left:
        for namespace in (edge, far):
            _ip("netns", "add", namespace)
            left.callback(_ip, "netns", "del", namespace)
        hosts.mkdir(parents=True)
        left.callback(shutil.rmtree, hosts)
        (hosts / "hosts").write_text("".join(f"{address} {name}\n" for name, address in HOSTS.items()))
        (hosts / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        _join(edge, far)
        yield left.enter_context(_serving(edge, far, home))


def _join(edge: str, far: str) -> None:
    _ip("-n", edge, "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", far)
    for namespace, device, addresses in ((edge, "out", [HERE]), (far, "in", [SERVER, OTHER])):
        for address in addresses:
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", device)
        for each in (device, "lo"):
            _ip("-n", namespace, "link", "set", each, "up")
    _ip("-n", edge, "route", "add", "default", "via", SERVER)


@contextlib.contextmanager
def _serving(edge: str, far: str, home: Path) -> Iterator[Site]:
    authority = trustme.CA()
    authorities, own = home / "authorities.pem", home / "server.pem"
    authority.cert_pem.write_to_path(authorities)
    authority.issue_cert(*NAMES).private_key_and_cert_chain_pem.write_to_path(own)
    command = ["ip", "netns", "exec", far, sys.executable, "-c", _SERVERS, str(own), SERVER, OTHER]
    servers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert servers.stdout is not None
        assert servers.stdout.readline() == "up\n"
        yield Site(edge, authorities, servers)
    finally:
        servers.kill()
        servers.wait()
        if servers.stdout is not None:
            servers.stdout.close()


def broker_within(edge: str) -> Program:
    """How the broker is started in a network namespace."""
    options = ("netns", "exec", edge, sys.executable, *broker.PROGRAM.options)
    return replace(broker.PROGRAM, interpreter=shutil.which("ip") or "ip", options=options)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
