"""A binding on a whole server: its secret stays sealed in all that the server keeps and says."""

import base64
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enclave import Enclave
from enclave.contracts.errors import NotFound, SecretUnreadable
from enclave.contracts.identity import Credential

pytestmark = pytest.mark.slow

SECRET = "SEKRIT0123456789abcdef"


@contextmanager
def served(home: Path, said: Path, **environment: str) -> Iterator[Enclave]:
    command = (sys.executable, "-m", "enclave.serve", "--home", str(home))
    with (
        said.open("ab") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=os.environ | environment
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        credential = Credential.model_validate_json(child.stdout.readline())
        with Enclave(credential.base_url, api_key=credential.api_key) as client:
            yield client
        child.stdin.close()
        child.wait(30)


FIND = """
import os
enclave.result([name for name, value in os.environ.items() if "SEKRIT" in value])
"""


def kept(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_secret_outlives_the_server_and_is_readable_nowhere(tmp_path: Path) -> None:
    home, said = tmp_path / "home", tmp_path / "said"
    with served(home, said) as client:
        client.bindings.put("crm", url="https://api.example.org", bearer=SECRET)
        assert client.run(FIND, bindings=["crm"], wait=30).result().result == []
        live = kept(tmp_path)
    another = base64.b64encode(bytes(range(32))).decode()
    with served(home, said, ENCLAVE_SECRET_KEY=another) as client:
        assert [binding.name for binding in client.bindings.list()] == ["crm"]
        with pytest.raises(SecretUnreadable, match=r"crm: .* another key"):
            client.run("pass", bindings=["crm"])
        client.bindings.put("crm", url="https://api.example.org", bearer=f"{SECRET}-2")
        assert client.run(FIND, bindings=["crm"], wait=30).result().result == []
        client.bindings.delete("crm")
        with pytest.raises(NotFound):
            client.bindings.get("crm")

    assert b"api.example.org" in live
    assert b"SEKRIT" not in live + kept(tmp_path)


TRY = """
import socket
try:
    socket.create_connection(("169.254.169.254", 80))
except OSError as error:
    enclave.result(error.errno)
"""


def test_leave_for_loopback_leaves_the_broker_deciding(tmp_path: Path) -> None:
    with served(tmp_path / "home", tmp_path / "said", ENCLAVE_EGRESS_PRIVATE="10.20.0.0/16,127.0.0.1/32") as client:
        session = client.run(TRY, limits={"wallClockSeconds": 10}, wait=30)
        assert session.result().result == errno.EACCES
