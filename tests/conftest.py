"""What every test has: one event loop library, and a reason for each skip."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import pytest

from enclave.backends.local import machine
from tests.postgres import Server, binaries


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@functools.cache
def lacking() -> str:
    """Why no sandbox can be made on this machine; empty if one can."""
    missing = [check for check in machine.checks() if check.essential and not check.holds]
    return "; ".join(f"{check.name}: {check.detail}" for check in missing)


def no_sandbox() -> str:
    return f"no sandbox can be made here ({lacking()})" if lacking() else ""


def no_node() -> str:
    return "" if machine.node() is not None else "Node.js is not installed"


def no_root() -> str:
    return "" if os.geteuid() == 0 else "it needs root"


NEEDS: Final[Mapping[str, Callable[[], str]]] = {"sandbox": no_sandbox, "node": no_node, "root": no_root}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with its reason, what this machine cannot run; before any fixture of it is made."""
    for item in items:
        for name, why_not in NEEDS.items():
            if item.get_closest_marker(name) is not None and (reason := why_not()):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server that all tests share; a test that stops it starts it again."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    server = Server(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def database(postgres: Server) -> str:
    """An empty database, by its URL."""
    return await postgres.schema()
