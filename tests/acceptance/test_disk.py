"""A disk that is full: what cannot be written is refused, what runs stays contained, and it heals by itself."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from enclave.contracts.identity import Credential
from enclave.serve import embedded
from tests.acceptance.installation import Client, Reply

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sandbox,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a file system of one's own is made by root"),
]
SIZE = "48m"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home on a file system of its own."""
    place = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "enclave-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="module")
def credential(home: Path) -> Iterator[Credential]:
    with embedded(home) as credential:
        yield credential


@pytest.fixture
def ask(credential: Credential) -> Callable[..., Reply]:
    client = Client(credential.base_url.removeprefix("http://"))

    def ask(method: str, path: str, body: object = None, **headers: str) -> Reply:
        return client.ask(method, path, body, credential.api_key, **headers)

    return ask


class Filler:
    """Takes all the room there is, to the last byte."""

    def __init__(self, home: Path) -> None:
        self._file = home / "filler"

    def fill(self) -> None:
        with self._file.open("wb", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def empty(self) -> None:
        self._file.unlink(missing_ok=True)


@pytest.fixture
def filler(home: Path) -> Iterator[Filler]:
    filler = Filler(home)
    yield filler
    filler.empty()


def awaited(what: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.05)  # nobody tells from outside
    return found


def test_a_full_disk_is_503_and_heals(ask: Callable[..., Reply], filler: Filler) -> None:
    before = ask("POST", "/sessions", {"code": "print(1)"}, prefer="wait=20").json
    filler.fill()
    refused = [ask("POST", "/sessions", {"code": "print(1)"}, prefer="wait=20") for _ in range(3)]
    assert {(reply.status, reply.json["code"]) for reply in refused} == {(503, "unavailable")}
    assert "retry-after" in dict(refused[0].headers)
    assert ask("GET", "/readyz").status == 503
    assert ask("GET", f"/sessions/{before['id']}").json["phase"] == "succeeded"  # what is there can be read
    assert [event["type"] for event in ask("GET", f"/sessions/{before['id']}/audit").json["items"]]

    filler.empty()
    assert awaited(lambda: ask("GET", "/readyz").status == 200)
    after = ask("POST", "/sessions", {"code": "print(2)"}, prefer="wait=20")
    assert (after.status, after.json["result"]["stdout"]) == (201, "2\n")


def test_what_runs_is_contained_and_comes_to_an_end(
    ask: Callable[..., Reply], filler: Filler, home: Path, credential: Credential
) -> None:
    code = "import time\nprint('begun', flush=True)\ntime.sleep(1.5)\nprint('done')"
    running = ask("POST", "/sessions", {"code": code}).json["id"]
    assert awaited(lambda: ask("GET", f"/sessions/{running}").json["phase"] == "running")
    filler.fill()
    # It ends meanwhile, and that cannot be written.
    assert awaited(lambda: ask("GET", "/sessions?phase=running").status in (200, 503))
    time.sleep(3)
    filler.empty()
    assert awaited(lambda: ask("GET", "/readyz").status == 200)
    # It is not left in limbo: without a restart it comes to an end, with its event.
    assert awaited(lambda: ask("GET", f"/sessions/{running}").json["phase"] not in ("pending", "running"), 90)
    ended = ask("GET", f"/sessions/{running}").json
    assert (ended["phase"], ended["result"]["stdout"]) == ("succeeded", "begun\ndone\n")
    trail = [event["type"] for event in ask("GET", f"/sessions/{running}/audit").json["items"]]
    assert trail[-1] == "result_collected"
    done = subprocess.run(
        [sys.executable, "-m", "enclave", "audit", "verify", "--home", str(home), "--json"], capture_output=True
    )
    assert (done.returncode, [one["holds"] for one in json.loads(done.stdout)]) == (0, [True])
