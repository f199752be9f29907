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


def test_a_client_builds_no_types_that_it_does_not_use_and_a_server_builds_them_all() -> None:
    program = (
        "import enclave.sdk.client\n"
        "from enclave.contracts.wire import Wire, build_types\n"
        "def kinds(top): return [top, *(each for below in top.__subclasses__() for each in kinds(below))]\n"
        "print(sum(kind.__pydantic_complete__ for kind in kinds(Wire)))\n"
        "build_types()\n"
        "print(all(kind.__pydantic_complete__ for kind in kinds(Wire)))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout

    built, everything = printed.split()
    # Those that stand as a default of others are used at once.
    assert (int(built) < 10, everything) == (True, "True")
