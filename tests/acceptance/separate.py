"""An identity service and a control plane, each a process of its own that can be stopped, killed and started again."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from enclave.contracts.identity import Credential

_URL = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True)
class Said:
    status: int
    headers: dict[str, str]
    json: Any


def ask(url: str, method: str, path: str, key: str | None = None, body: object = None, **headers: str) -> Said:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    with contextlib.closing(connection):
        bearer = {"Authorization": f"Bearer {key}"} if key else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, bearer | named)
        answer = connection.getresponse()
        return Said(answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.load(answer))


@dataclass
class Server:
    """A command that serves, and says where when it does."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    url: str = ""
    child: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Start it, on the port that it had before if there was one."""
        port = str(urlsplit(self.url).port) if self.url else "0"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ENCLAVE_")}
        self.child = subprocess.Popen(
            (sys.executable, "-m", "enclave", "serve", *self.arguments, "--port", port),
            env=clean | self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.child.stdout is not None
        found = _URL.search(self.child.stdout.readline())
        assert found, "it did not start"
        self.url = found[0]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.child is not None
        self.child.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        if self.child is not None:
            # One that is stopped dies of it all the same.
            self.child.kill()
            self.child.wait()
            assert self.child.stdout is not None
            self.child.stdout.close()
            self.child = None


@dataclass
class Pair:
    """The two, and the credentials that the identity service left in its home."""

    identity: Server
    control: Server
    home: Path

    def credential(self, name: str = "credentials") -> Credential:
        return Credential.model_validate_json((self.home / "identity" / f"{name}.json").read_bytes())

    @property
    def key(self) -> str:
        return self.credential().api_key

    def ask(self, method: str, path: str, key: str | None = None, body: object = None, **headers: str) -> Said:
        """Ask the control plane, as the owner if as nobody else."""
        return ask(self.control.url, method, path, key or self.key, body, **headers)

    def new_key(self, **terms: object) -> Any:
        """A key that the control plane has not seen: made on the service itself."""
        said = ask(self.identity.url, "POST", "/keys", self.key, {"name": "k", **terms})
        assert said.status == 201, said
        return said.json

    def trail(self) -> list[Any]:
        items, cursor = [], ""
        while True:
            page = self.ask("GET", f"/audit?limit=200{cursor}").json
            items += page["items"]
            if page["nextCursor"] is None:
                return items
            cursor = f"&cursor={page['nextCursor']}"


@contextlib.contextmanager
def pair(home: Path, **settings: object) -> Iterator[Pair]:
    """Both, started and in the end killed."""
    place = home / "identity"
    # The internal port has to be the same after a restart: a socket's path is.
    socket = home / "inside"
    identity = Server(["identity", "--home", str(place), "--internal-socket", str(socket)])
    named = {f"ENCLAVE_IDENTITY_{name.upper()}": str(value) for name, value in settings.items()}
    control = Server(
        ["--home", str(home / "control")],
        {
            "ENCLAVE_IDENTITY_URL": f"unix:{socket}",
            "ENCLAVE_IDENTITY_KEY_FILE": str(place / "service.json"),
            "ENCLAVE_POOL": "1",
            **named,
        },
    )
    try:
        identity.start()
        control.start()
        yield Pair(identity, control, home)
    finally:
        control.kill()
        identity.kill()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for it; the test's own timeout ends what never comes."""
    while not holds():
        time.sleep(0.02)
