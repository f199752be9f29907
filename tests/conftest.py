"""What every test has: one event loop library, and a reason for each skip."""

import functools

import pytest

from enclave.backends.local import machine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@functools.cache
def lacking() -> str:
    """Why no sandbox can be made on this machine; empty if one can."""
    missing = [check for check in machine.checks() if check.essential and not check.holds]
    return "; ".join(f"{check.name}: {check.detail}" for check in missing)


@pytest.fixture(autouse=True)
def _able(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("sandbox") and lacking():
        pytest.skip(f"no sandbox can be made here ({lacking()})")
    if request.node.get_closest_marker("node") and machine.node() is None:
        pytest.skip("Node.js is not installed")
