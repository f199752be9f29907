"""A local backend for the whole module, and a way to run one program in it."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enclave.backends.local import LocalBackend
from tests.backends.running import Run, RunProgram, run_in


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def backend(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBackend]:
    made = LocalBackend(home=tmp_path_factory.mktemp("home"), pool=2)
    await made.start()
    yield made
    await made.close()
    assert [path for path in Path("/sys/fs/cgroup").glob(f"**/enclave/{os.getpid()}-*") if path.is_dir()] == []  # noqa: ASYNC240


@pytest.fixture(scope="module")
def run(backend: LocalBackend) -> RunProgram:
    async def run_program(code: str, **options: object) -> Run:
        return await run_in(backend, code, **options)  # type: ignore[arg-type]

    return run_program
