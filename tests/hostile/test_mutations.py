"""With a control removed, every probe that rests on it fails: none of them passes by chance."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from enclave.backends.local import LocalBackend, machine
from enclave.sandbox import landlock
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


async def under(
    control: str, probes: list[Probe], facts: Mapping[str, object], home: Path
) -> tuple[set[str | None], dict[str, Outcome]]:
    """What a plain program of each language gave with a control removed, and then each probe."""
    with pytest.MonkeyPatch.context() as patch:
        mutations.apply(control.split("+"), patch)
        backend = LocalBackend(home=home, pool=0)  # each is made after what went before it
        await backend.start()
        try:
            first = [await run(backend, alive(language), facts) for language in {probe.language for probe in probes}]
            return {outcome.result for outcome in first}, await run_all(backend, probes, facts)
        finally:
            await close(backend)


@pytest.mark.parametrize("control", CONTROLS)
async def test_without_its_control_a_probe_fails(control: str, facts: Mapping[str, object], tmp_path: Path) -> None:
    able = [probe for probe in PROBES if probe.language == "python" or machine.node() is not None]
    probes = [probe for probe in able if probe.control == control]

    first, outcomes = await under(control, probes, facts, tmp_path)

    unharmed = [probe.name for probe in probes if judge(probe.expect, outcomes[probe.name]) == probe.expect.verdict]
    assert first == {"harmless: alive"}, "programs still run, so that failing tells"
    assert unharmed == []


async def test_where_the_mounts_fail_landlock_alone_refuses(facts: Mapping[str, object], tmp_path: Path) -> None:
    if landlock.domain() is None:
        pytest.skip("this kernel has no Landlock that is used")
    probes = [probe for probe in PROBES if probe.control == "writable_root+real_root+landlock"]

    _, held = await under("writable_root+real_root", probes, facts, tmp_path)
    _, let = await under("writable_root+real_root+landlock", probes, facts, tmp_path)

    assert {name: outcome.result for name, outcome in held.items()} == {p.name: "blocked: EACCES" for p in probes}
    assert [name for name, outcome in let.items() if outcome.result == "blocked: EACCES"] == []
