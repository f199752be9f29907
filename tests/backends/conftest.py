"""A local backend for the whole module, and a way to run one program in it."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from enclave.backends.base import Exit, LaunchSpec
from enclave.backends.local import LocalBackend
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Run:
    """How one program went."""

    exit: Exit
    stdout: bytes
    stderr: bytes


RunProgram = Callable[..., Awaitable[Run]]


def spec(*, language: str = "python", **limits: float) -> LaunchSpec:
    """A launch with the default limits but those given."""
    return LaunchSpec(
        session_id=f"ses_test{next(_numbers)}",
        language=Language(language),
        limits=SessionLimits().model_copy(update=limits),
        egress=EgressPolicy(),
    )


async def run_in(backend: LocalBackend, code: str, *, language: str = "python", **limits: float) -> Run:
    """Run a program to its end, and tear its sandbox down."""
    sandbox = await backend.launch(spec(language=language, **limits))
    workload = await sandbox.run(code)
    written = {"stdout": b"", "stderr": b""}
    async for output in workload.output():
        written[output.stream] += output.data
    ended = await workload.wait()
    await sandbox.teardown()
    return Run(ended, written["stdout"], written["stderr"])


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def backend(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBackend]:
    made = LocalBackend(home=Path(tmp_path_factory.mktemp("home")), pool=2)
    failing = [f"{check.name}: {check.detail}; {check.mend}" for check in made.probe() if not check.holds]
    await made.start()
    if not made.healthy():
        await made.close()
        pytest.skip(f"no local sandbox on this machine ({'; '.join(failing)})")
    yield made
    await made.close()


@pytest.fixture(scope="module")
def run(backend: LocalBackend) -> RunProgram:
    async def run_program(code: str, **options: object) -> Run:
        return await run_in(backend, code, **options)  # type: ignore[arg-type]

    return run_program
