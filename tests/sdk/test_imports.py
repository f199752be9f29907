"""What importing the client brings in, and what it leaves out."""

import subprocess
import sys

import pytest

SERVER_SIDE = [
    "starlette",
    "uvicorn",
    "sqlite3",
    "jwt",
    "cryptography",
    "enclave.core",
    "enclave.sandbox",
    "enclave.server",
    "enclave.store",
    "enclave.identity",
    "enclave.orchestrator",
    "enclave.backends",
    "enclave.system",
]


def _loaded(program: str) -> set[str]:
    found = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(found.stdout.split())


@pytest.mark.slow
def test_a_client_brings_in_nothing_of_the_server() -> None:
    loaded = _loaded("from enclave import AsyncEnclave, Enclave; Enclave('http://x', api_key='k')")

    assert "httpx2" in loaded
    assert sorted(loaded.intersection(SERVER_SIDE)) == []


def test_the_package_alone_brings_in_nothing_at_all() -> None:
    assert {name for name in _loaded("import enclave") if name.startswith(("enclave.", "pydantic", "httpx2"))} == set()


@pytest.mark.slow
def test_the_command_line_waits_with_the_http_client_until_a_command_needs_it() -> None:
    loaded = _loaded("import enclave.cli")

    assert sorted(loaded.intersection([*SERVER_SIDE, "httpx2", "rich"])) == []
