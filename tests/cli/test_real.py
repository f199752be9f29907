"""The clients and the command line against the real server, with real sandboxes."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave import AsyncEnclave, Enclave
from enclave.contracts.errors import Conflict, EnclaveError, InvalidRequest, NoSuchFile, NotFound, Unauthenticated
from enclave.contracts.frames import EndFrame, StdoutFrame
from enclave.contracts.identity import Credential
from enclave.contracts.sessions import KillReason, Phase
from tests.sdk.samples import ID

pytest.importorskip("enclave.system", reason="the server is not there yet")
pytestmark = [pytest.mark.slow, pytest.mark.sandbox]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Credential]:
    """A server of our own."""
    from enclave.serve import embedded

    try:
        with embedded(tmp_path_factory.mktemp("home")) as credential:
            yield credential
    except EnclaveError as error:
        pytest.skip(f"this machine runs no server: {error.detail}")


@pytest.fixture
def client(real: Credential) -> Iterator[Enclave]:
    """A client of it."""
    with Enclave(real.base_url, api_key=real.api_key) as client:
        yield client


def _command(real: Credential, *args: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    environment = os.environ | {"ENCLAVE_BASE_URL": real.base_url, "ENCLAVE_API_KEY": real.api_key}
    return subprocess.run([sys.executable, "-m", "enclave", *args], env=environment, input=stdin, capture_output=True)


def test_a_program_runs_and_gives_its_result(client: Enclave) -> None:
    handle = client.run("print('hi'); enclave.result({'ok': True})", labels={"suite": "real"})
    result = handle.result(timeout=30)

    assert (result.exit_code, result.result, result.stdout) == (0, {"ok": True}, "hi\n")
    assert handle.session.phase is Phase.SUCCEEDED
    assert client.result(handle.id) == result
    assert [event.type for event in handle.audit()][:2] == ["session_created", "sandbox_started"]
    assert handle.id in [session.id for session in client.list(labels={"suite": "real"})]
    assert handle.teardown().phase is Phase.TORN_DOWN


def test_waiting_brings_the_result_in_one_round_trip(client: Enclave) -> None:
    handle = client.run("enclave.result(6 * 7)", wait=20)

    assert handle.session.result is not None
    assert handle.result().result == 42


def test_a_stream_is_live_and_can_be_resumed_at_each_of_its_frames(client: Enclave) -> None:
    handle = client.run("import sys\nfor n in range(3): print(n, flush=True)")
    with handle.stream() as stream:
        told = [(frame, stream.cursor) for frame in stream]
    frames = [frame for frame, _ in told]

    assert isinstance(frames[-1], EndFrame)
    assert "".join(frame.chunk for frame in frames if isinstance(frame, StdoutFrame)) == "0\n1\n2\n"
    for place, (_, cursor) in enumerate(told[:-1]):
        rest = list(client.stream(handle.id, after=cursor))
        text = [
            "".join(frame.chunk for frame in some if isinstance(frame, StdoutFrame))
            for some in (rest, frames[place + 1 :])
        ]
        others = [
            [frame for frame in some if not isinstance(frame, StdoutFrame)] for some in (rest, frames[place + 1 :])
        ]
        assert text[0] == text[1]
        assert others[0] == others[1]


def test_a_kill_has_its_reason(client: Enclave) -> None:
    handle = client.run("while True: pass", limits={"wall_clock_seconds": 0.3})
    handle.result(timeout=30)

    assert (handle.session.phase, handle.session.kill_reason) == (Phase.KILLED, KillReason.WALL_CLOCK_EXCEEDED)


def test_errors_are_the_servers_own(client: Enclave, real: Credential) -> None:
    with pytest.raises(NotFound):
        client.get(ID)
    with pytest.raises(InvalidRequest) as caught:
        client.run("x", limits={"pids": 10**6})
    assert [problem.field for problem in caught.value.errors] == ["limits.pids"]
    handle = client.run("import time; time.sleep(20)")
    with pytest.raises(Conflict):
        client.result(handle.id)
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.05)
    assert handle.teardown().phase is Phase.TORN_DOWN
    with Enclave(real.base_url, api_key="ek_nobody_0000") as stranger, pytest.raises(Unauthenticated):
        stranger.get(handle.id)


def test_the_async_client_does_the_same(real: Credential) -> None:
    async def converse() -> None:
        async with AsyncEnclave(real.base_url, api_key=real.api_key) as client:
            handle = await client.run("print('hi'); enclave.result([1])")
            kinds = [frame.kind async for frame in handle.stream()]
            assert kinds[-1] == "end"
            assert (await handle.result(timeout=30)).result == [1]
            assert handle.id in [session.id async for session in client.list(limit=5)]
            assert (await client.health()).ok

    import asyncio

    asyncio.run(converse())


def test_the_command_line_runs_a_program(real: Credential) -> None:
    program = b"import sys; print('out'); print('err', file=sys.stderr); enclave.result({'n': 1}); sys.exit(3)"
    ran = _command(real, "run", "-", stdin=program)

    assert (ran.returncode, ran.stdout) == (3, b'out\n{"n": 1}\n')
    assert ran.stderr == b"err\nfailed: exit code 3\n"


def test_the_command_line_tells_of_a_kill(real: Credential) -> None:
    ran = _command(real, "run", "--wall", "0.3", "-c", "while True: pass")

    assert (ran.returncode, ran.stderr) == (124, b"killed: it ran longer than 0.3 s\n")


def test_the_command_line_lists_and_follows(real: Credential, client: Enclave) -> None:
    handle = client.run("print('told')", labels={"suite": "listing"}, wait=20)

    assert handle.id.encode() in _command(real, "sessions", "--label", "suite=listing").stdout
    assert _command(real, "logs", handle.id).stdout == b"told\n"
    assert b"session_created" in _command(real, "audit", handle.id).stdout
    assert _command(real, "rm", handle.id).stdout == f"{handle.id}\n".encode()


def test_a_program_needs_no_server_to_be_there(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENCLAVE_")}
    ran = subprocess.run(
        [sys.executable, "-m", "enclave", "run", "-c", "print('alone')"],
        env=environment | {"ENCLAVE_HOME": str(tmp_path)},
        capture_output=True,
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"alone\n", b"")


def test_doctor_examines_this_machine() -> None:
    ran = subprocess.run([sys.executable, "-m", "enclave", "doctor"], capture_output=True)

    assert ran.returncode in (0, 1)
    assert b"CONTROL" in ran.stdout


def test_files_go_in_and_come_out(client: Enclave, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"\xff\xfe")
    code = (
        "import os\nos.makedirs('out/d')\n"
        "open('out/d/sum', 'wb').write(open('a.txt', 'rb').read() + open('b', 'rb').read() + open('in/c', 'rb').read())"
    )
    handle = client.run(code, files={"a.txt": "text", "b": b"\x00", "in/c": tmp_path / "local"})
    (file,) = handle.files(timeout=30)

    assert (file.path, file.bytes, file.sha256) == ("d/sum", 7, hashlib.sha256(b"text\x00\xff\xfe").hexdigest())
    assert handle.download("d/sum", to=tmp_path / "copy") == client.download(handle.id, "d/sum") == b"text\x00\xff\xfe"
    assert (tmp_path / "copy").read_bytes() == b"text\x00\xff\xfe"
    for path in ("none", "../d/sum", "d/../d/sum"):
        with pytest.raises(NoSuchFile):
            handle.download(path)
    handle.teardown()
    with pytest.raises(NoSuchFile):
        handle.download("d/sum")


def test_the_command_line_passes_files(real: Credential, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n")
    code = (
        "import os\nos.makedirs('out/d')\nos.symlink('/etc/passwd', 'out/link')\n"
        "open('out/d/a', 'w').write(open('data.csv').read() + open('x/y').read())"
    )
    out = tmp_path / "made" / "here"
    file = str(tmp_path / "data.csv")
    ran = _command(real, "run", "-c", code, "--file", file, "--file", f"{file}=x/y", "--out", str(out))

    assert (ran.returncode, ran.stdout) == (0, b"")
    assert ran.stderr == f"not kept of `out`: 1 not a file\n{out}/d/a: 8 bytes\n".encode()
    assert (out / "d" / "a").read_text() == "1,2\n1,2\n"


def test_the_command_line_writes_nowhere_but_where_it_was_told(real: Credential, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d").symlink_to(tmp_path / "elsewhere")
    code = "import os\nos.makedirs('out/d')\nopen('out/d/a', 'w').close()"
    ran = _command(real, "run", "-c", code, "--out", str(tmp_path / "out"))

    assert ran.returncode == 2
    assert b"leads out of" in ran.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("pair", ["=x", "x=", ""])
def test_the_command_line_says_what_a_file_looks_like(real: Credential, pair: str) -> None:
    ran = _command(real, "run", "-c", "pass", "--file", pair)

    assert ran.returncode == 2
    assert b"FILE=PATH" in ran.stderr


def test_the_async_client_passes_files_too(real: Credential) -> None:
    async def converse() -> None:
        async with AsyncEnclave(real.base_url, api_key=real.api_key) as client:
            handle = await client.run("import os; os.mkdir('out'); os.link('a', 'out/b')", files={"a": "x"})
            assert [file.path for file in await handle.files(timeout=30)] == ["b"]
            assert await handle.download("b") == await client.download(handle.id, "b") == b"x"

    import asyncio

    asyncio.run(converse())


def test_a_key_of_the_command_line_may_what_it_was_made_for_until_it_is_revoked(real: Credential) -> None:
    made = json.loads(_command(real, "key", "create", "--name", "ci", "--scope", "sessions:read", "--json").stdout)
    narrow = real.model_copy(update={"api_key": made["apiKey"]})
    me = json.loads(_command(narrow, "whoami", "--json").stdout)
    refused = _command(narrow, "run", "-c", "print(1)")
    revoked = _command(real, "key", "revoke", made["id"])
    after = _command(narrow, "whoami")
    told = json.loads(_command(real, "audit", "--json").stdout)

    assert (me["userId"], me["role"], me["scopes"]) == (made["id"], "owner", ["sessions:read"])
    assert (refused.returncode, b"lacks the scope sessions:write" in refused.stderr) == (70, True)
    assert (revoked.stdout, after.returncode) == (f"{made['id']}\n".encode(), 70)
    of_key = [event["type"] for event in told if event.get("keyId") == made["id"]]
    assert of_key == ["key_created", "key_revoked"]
    assert made["apiKey"] not in json.dumps(told)
