"""Everyday clients inside a sandbox, under a rule on a name: they find the host as on any network."""

import shutil

import pytest

from tests.egress.conftest import Sandboxes

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox, pytest.mark.root]

COMMANDS = {
    "curl http": ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://api.example.test/"],
    "curl https": ["curl", "-sSk", "-o", "/dev/null", "-w", "%{http_code}", "https://api.example.test/"],
    "curl refused": ["curl", "-sS", "http://other.example.test/"],
    "wget": ["wget", "-q", "-S", "-O", "/dev/null", "http://api.example.test/"],
    "openssl": ["openssl", "s_client", "-connect", "api.example.test:443", "-servername", "api.example.test", "-brief"],
    "git": ["git", "ls-remote", "http://api.example.test/repository"],
}
SAYS = {
    "curl http": "200",
    "curl https": "200",
    "curl refused": "Could not resolve host: other.example.test",
    "wget": "HTTP/1.1 200 OK",
    "openssl": "CONNECTION ESTABLISHED",
    "git": "not valid: is this a git repository?",
}


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_client_finds_its_host(sandboxes: Sandboxes, name: str) -> None:
    command = COMMANDS[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")

    told = await sandboxes.run(
        f"import subprocess\ndone = subprocess.run({command}, input=b'', capture_output=True, timeout=20)\n"
        "print((done.stdout + done.stderr).decode())",
        ["api.example.test"],
        pids=128,
    )

    assert SAYS[name] in told.printed
