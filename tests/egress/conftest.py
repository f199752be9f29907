from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enclave.backends.base import Egress, Exit, Invocation, Output, Violation
from enclave.backends.local import LocalBackend, broker
from enclave.contracts.policy import EgressMode, EgressPolicy
from enclave.core.egress import Floor
from enclave.core.grant import Grant
from tests.backends.running import spec
from tests.egress import site as sites
from tests.egress.site import Site


@dataclass
class Told:
    """What became of a program, and what it attempted."""

    end: Exit
    printed: str
    egress: list[Egress] = field(default_factory=list)
    invocations: list[Invocation] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def of(self, verdict: str) -> list[tuple[str, int]]:
        return [(one.target, one.port) for one in self.egress if one.verdict == verdict]


@dataclass
class Sandboxes:
    backend: LocalBackend

    async def run(
        self,
        code: str,
        allow: Sequence[str] = (),
        *,
        deny: Sequence[str] = (),
        bindings: Sequence[Grant] = (),
        language: str = "python",
        **limits: float,
    ) -> Told:
        """Run a program under a policy to its end."""
        mode = EgressMode.ALLOWLIST if allow else EgressMode.DENY_ALL
        egress = EgressPolicy(mode=mode, allow=tuple(allow), deny=tuple(deny))
        limits = {"memory_mib": 512, **limits}
        chosen = spec(language=language, template=None, egress=egress, bindings=tuple(bindings), **limits)
        sandbox = await self.backend.launch(chosen)
        workload = await sandbox.run(code)
        printed, told = b"", Told(Exit(code=None), "")
        async for item in workload.output():
            match item:
                case Output(data=data):
                    printed += data
                case Egress():
                    told.egress.append(item)
                case Invocation():
                    told.invocations.append(item)
                case Violation():
                    told.violations.append(item)
        told.end, told.printed = await workload.wait(), printed.decode()
        await sandbox.teardown()
        return told


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not sites.available():
        pytest.skip("a network namespace needs root and iproute2")
    with sites.network(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
async def sandboxes(
    site: Site, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Sandboxes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker, "PROGRAM", sites.broker_within(site.edge))
        floor = Floor(deny=(f"{sites.SERVER}:22",), authorities=str(site.authorities))
        backend = LocalBackend(home=Path(tmp_path_factory.mktemp("home")), pool=2, egress=floor)
        await backend.start()
        try:
            yield Sandboxes(backend)
        finally:
            await backend.close()


@pytest.fixture
def nothing_reached(site: Site) -> Iterator[None]:
    """Nothing has been connected to the address that no test allows, when the test is over."""
    yield
    assert [met for met in site.seen() if met.startswith(sites.OTHER)] == []
