"""With a control removed, every probe that rests on it fails: none of them passes by chance."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from enclave.backends.local import LocalBackend, machine
from tests.hostile import host, mutations
from tests.hostile.corpus import PROBES
from tests.hostile.probe import Outcome, Probe, harmless, judge
from tests.hostile.running import run, run_all

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="what the mutations let through is told by what root may do"),
]

CONTROLS = sorted({probe.control for probe in PROBES if not probe.fixed})
_CLOSING_SECONDS = 10.0


def alive(language: str) -> Probe:
    return Probe(
        name="alive",
        family="",
        code="enclave.result('harmless: alive')",
        expect=harmless("alive"),
        control="",
        language=language,
    )


async def close(backend: LocalBackend) -> None:
    """Close it; a launcher that a mutation has robbed of the means to end is ended by its pid."""
    launcher = backend.bare.pid
    try:
        await asyncio.wait_for(backend.close(), _CLOSING_SECONDS)
    except TimeoutError:
        os.kill(launcher, signal.SIGKILL)


@pytest.fixture(autouse=True)
def _no_ipc_left() -> Iterator[None]:
    yield
    host.remove_ipc()


async def failing(
    control: str, probes: list[Probe], facts: Mapping[str, object], home: Path
) -> tuple[list[Outcome], set[str]]:
    with pytest.MonkeyPatch.context() as patch:
        mutations.apply(control.split("+"), patch)
        backend = LocalBackend(home=home, pool=0)  # each is made after what went before it
        await backend.start()
        try:
            first = [await run(backend, alive(language), facts) for language in {probe.language for probe in probes}]
            outcomes = await run_all(backend, probes, facts)
        finally:
            await close(backend)
    return first, {p.name for p in probes if judge(p.expect, outcomes[p.name]) != p.expect.verdict}


@pytest.mark.parametrize("control", CONTROLS)
async def test_without_its_control_a_probe_fails(control: str, facts: Mapping[str, object], tmp_path: Path) -> None:
    able = [probe for probe in PROBES if probe.language == "python" or machine.node() is not None]
    probes = [probe for probe in able if probe.control == control]

    first, fail = await failing(control, probes, facts, tmp_path)

    assert {outcome.result for outcome in first} == {"harmless: alive"}, "programs still run, so that failing tells"
    assert {probe.name for probe in probes} - fail == set()
