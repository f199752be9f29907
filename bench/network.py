"""Two network namespaces and a pair of veth: the broker and direct clients on one side, servers on the other."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trustme

from enclave.backends.local import broker, machine
from enclave.backends.local.connection import Program

HERE, SERVER, NAME = "198.18.8.1", "198.18.8.2", "bench.example.test"


@dataclass(frozen=True)
class Network:
    """The namespace with a way to the servers, and the authority of their certificate."""

    edge: str
    authority: Path

    def direct(self, code: str) -> Any:
        """What a program prints as JSON that runs without a sandbox, by the interpreter that sandboxes have."""
        argv = ["ip", "netns", "exec", self.edge, machine.python().path, "-I", "-c", code]
        return json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)

    @property
    def broker(self) -> Program:
        """How the broker is started here."""
        options = ("netns", "exec", self.edge, sys.executable, *broker.PROGRAM.options)
        return replace(broker.PROGRAM, interpreter=shutil.which("ip") or "ip", options=options)


def available() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextlib.contextmanager
def network(home: Path) -> Iterator[Network]:
    """Make it, with its servers, and take it away again."""
    edge, far = f"enclave-edge-{os.getpid()}", f"enclave-far-{os.getpid()}"
    hosts = Path("/etc/netns") / edge
    with contextlib.ExitStack() as left:
        for namespace in (edge, far):
            _ip("netns", "add", namespace)
            left.callback(_ip, "netns", "del", namespace)
        hosts.mkdir(parents=True)  # what `ip netns exec` puts in the place of /etc/hosts (ip-netns(8))
        left.callback(shutil.rmtree, hosts)
        (hosts / "hosts").write_text(f"{SERVER} {NAME}\n")
        _ip("-n", edge, "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", far)
        for namespace, device, address in ((edge, "out", HERE), (far, "in", SERVER)):
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", namespace, "link", "set", device, "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
        left.enter_context(_serving(far, home))
        yield Network(edge, home / "authority.pem")


@contextlib.contextmanager
def _serving(far: str, home: Path) -> Iterator[None]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(home / "authority.pem")
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(home / "server.pem")
    command = ["ip", "netns", "exec", far, sys.executable, "-m", "bench.servers", str(home / "server.pem"), SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as servers:
        try:
            if servers.stdout is None or servers.stdout.readline() != b"up\n":
                raise SystemExit("the servers to be connected to did not come up")
            yield
        finally:
            servers.kill()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
