"""The facts of the host and a backend, for a whole module; the probes of a run, all at once."""

from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from enclave.backends.local import LocalBackend, machine
from tests.hostile import host
from tests.hostile.probe import Outcome, Probe
from tests.hostile.running import run_all


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def facts() -> Iterator[Mapping[str, object]]:
    with host.facts() as known:
        yield known


@pytest.fixture(scope="module")
async def backend(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBackend]:
    made = LocalBackend(home=tmp_path_factory.mktemp("home"), pool=2)
    await made.start()
    yield made
    await made.close()


@pytest.fixture(scope="module")
async def outcomes(
    backend: LocalBackend, facts: Mapping[str, object], request: pytest.FixtureRequest
) -> dict[str, Outcome]:
    """Of every probe that this run asks for."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    asked = [call.params["probe"] for call in calls if call is not None and "probe" in call.params]
    able = [probe for probe in asked if probe.language == "python" or machine.node() is not None]
    return await run_all(backend, [probe for probe in able if isinstance(probe, Probe)], facts)
