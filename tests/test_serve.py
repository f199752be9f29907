"""A whole server in a process of its own: how it starts, what it refuses, how it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave import Enclave
from enclave.contracts.errors import Unavailable
from enclave.contracts.identity import Credential
from enclave.contracts.sessions import Phase
from enclave.serve import embedded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def credential() -> Iterator[Credential]:
    with embedded() as credential:
        yield credential


def client(credential: Credential) -> Enclave:
    return Enclave(credential.base_url, api_key=credential.api_key)


def children_of(pid: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(child) for child in (task / "children").read_text().split()}
    return found | {grandchild for child in found for grandchild in children_of(child)}


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@contextlib.contextmanager
def served(home: Path) -> Iterator[tuple[subprocess.Popen[str], Credential]]:
    command = (sys.executable, "-m", "enclave.serve", "--home", str(home))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child, Credential.model_validate_json(child.stdout.readline())
        finally:
            child.kill()


def test_an_embedded_server_is_healthy(credential: Credential) -> None:
    with client(credential) as enclave:
        assert enclave.health().ok


def test_what_the_http_server_logs_is_json_too(tmp_path: Path) -> None:
    with subprocess.Popen(
        (sys.executable, "-m", "enclave", "serve", "--home", str(tmp_path), "--port", "0"),
        env=os.environ | {"ENCLAVE_LOG": "json", "ENCLAVE_POOL": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(b"this is no HTTP\r\n\r\n")
            while caller.recv(4096):
                pass
        server.terminate()
        _, said = server.communicate(timeout=60)
    assert [json.loads(line)["message"] for line in said.splitlines()] == ["Invalid HTTP request received."]


def test_a_home_serves_one_server(tmp_path: Path) -> None:
    with served(tmp_path):
        with pytest.raises(Unavailable), embedded(tmp_path):
            pass
        said = subprocess.run(
            (sys.executable, "-m", "enclave.serve", "--home", str(tmp_path)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (said.returncode, said.stderr) == (1, f"error: another Enclave server uses {tmp_path}\n")


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    program = "import os; from enclave.config import Settings; from enclave.serve import serve\n"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program += f"serve(Settings.from_env(os.environ, home={tmp_path!r}, port={port}), ready=print)"
        said = subprocess.run(
            (sys.executable, "-c", program.replace("PosixPath", "__import__('pathlib').Path")),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert said.stderr.splitlines()[-1].endswith(f"cannot listen on 127.0.0.1:{port}: Address already in use")


def test_a_key_outlives_the_server(tmp_path: Path) -> None:
    with embedded(tmp_path) as first:
        pass
    with embedded(tmp_path) as second, client(second) as enclave:
        assert first.api_key == second.api_key
        assert json.loads((tmp_path / "credentials.json").read_text())["baseUrl"] == second.base_url
        assert not tuple(enclave.list())


def test_a_temporary_home_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with embedded():
        assert list(tmp_path.glob("enclave-*"))
    assert not list(tmp_path.glob("enclave-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_temporary_home_goes_when_whoever_asked_for_it_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    program = "import enclave.serve as s\nwith s.embedded(): print('up', flush=True); input()"
    with subprocess.Popen(
        (sys.executable, "-c", program),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == b"up\n"
        assert list(tmp_path.glob("enclave-*"))
        parent.send_signal(number)
        # It ends when the last process that could write to it has ended.
        parent.stderr.read()
    assert not list(tmp_path.glob("enclave-*"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "stdin"])
def test_it_ends_at_once_and_leaves_no_sandbox(tmp_path: Path, how: signal.Signals | str) -> None:
    """Even with a program running, a stream open and an idle connection."""
    with served(tmp_path) as (child, credential), client(credential) as enclave:
        if not enclave.health().backend_healthy:
            pytest.skip("no sandbox can be made on this machine")
        session = enclave.run("import time; print('up', flush=True); time.sleep(60)")
        frames = session.stream()
        while next(frames).kind != "stdout":
            pass
        family = children_of(child.pid)
        assert family
        began = time.monotonic()
        if isinstance(how, signal.Signals):
            os.kill(child.pid, how)
        elif child.stdin is not None:
            child.stdin.close()
        assert [frame.kind for frame in frames][-1] == "end"
        assert child.wait(5) == 0
        assert time.monotonic() - began < 2
    assert not {pid for pid in family if alive(pid)}
    with embedded(tmp_path) as again, client(again) as enclave:
        left = enclave.get(session.id)
        assert left.phase is Phase.FAILED
        assert left.result is not None
        assert (left.result.stdout, left.result.error) == (
            "up\n",
            "the platform was shut down while the session ran",
        )


def test_a_launcher_that_hangs_holds_up_the_end_for_a_bounded_time(tmp_path: Path) -> None:
    with served(tmp_path) as (child, credential), client(credential) as enclave:
        if not enclave.health().backend_healthy:
            pytest.skip("no sandbox can be made on this machine")
        session = enclave.run("import time; print('up', flush=True); time.sleep(600)")
        frames = session.stream()
        while next(frames).kind != "stdout":
            pass
        family = children_of(child.pid)
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        child.terminate()
        assert child.wait(40) == 0
    assert not {pid for pid in family if alive(pid)}
    with embedded(tmp_path) as again, client(again) as enclave:
        left = enclave.get(session.id)
        assert left.result is not None
        assert (left.phase, left.result.stdout) == (Phase.FAILED, "up\n")
        assert left.result.error == "the platform was shut down while the session ran"


def test_a_server_that_was_killed_recovers(tmp_path: Path) -> None:
    with served(tmp_path) as (child, credential), client(credential) as enclave:
        if not enclave.health().backend_healthy:
            pytest.skip("no sandbox can be made on this machine")
        session = enclave.run("import time; time.sleep(60)")
        while enclave.get(session.id).phase is not Phase.RUNNING:
            time.sleep(0.01)
        family = children_of(child.pid)
        child.kill()
    time.sleep(0.3)
    assert not {pid for pid in family if alive(pid)}
    with embedded(tmp_path) as again, client(again) as enclave:
        assert enclave.get(session.id).phase is Phase.FAILED
        assert [frame.kind for frame in enclave.stream(session.id)][-1] == "end"
