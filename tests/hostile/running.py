"""Probes, run in a backend: any one that fits `enclave.backends.base.Backend`."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterable, Mapping
from typing import Final

from enclave.backends.base import Backend, Exit, LaunchSpec, Output, SandboxLost, Workload
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from tests.hostile import prelude
from tests.hostile.probe import Outcome, Probe

_numbers = itertools.count(1)
_AT_ONCE: Final = 6
_DEFAULTS: Final[Mapping[str, float]] = {
    "wall_clock_seconds": 10.0,
    "cpu_seconds": 5.0,
    "memory_mib": 256,
    "pids": 64,
    "disk_mib": 64,
    "output_kib": 64,
}


async def run_all(backend: Backend, probes: Iterable[Probe], facts: Mapping[str, object]) -> dict[str, Outcome]:
    """Every probe's outcome by its name, a few at a time."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def run_one(probe: Probe) -> tuple[str, Outcome]:
        async with turn:
            return probe.name, await run(backend, probe, facts)

    return dict(await asyncio.gather(*[run_one(probe) for probe in probes]))


async def run(backend: Backend, probe: Probe, facts: Mapping[str, object]) -> Outcome:
    """One probe, with what goes before it and beside it."""
    before = await _go(backend, probe, prelude.whole(probe, probe.before, facts)) if probe.before else Outcome()
    if not probe.beside:
        return await _go(backend, probe, prelude.whole(probe, probe.code, facts, before.result))
    neighbour = await backend.launch(_spec(probe))
    try:
        workload = await neighbour.run(prelude.whole(probe, probe.beside, facts, before.result))
        await anext(aiter(workload.output()), None)
        return await _go(backend, probe, prelude.whole(probe, probe.code, facts, before.result))
    finally:
        await neighbour.teardown()


def _spec(probe: Probe) -> LaunchSpec:
    # After another program a sandbox of an unusual size: one that is made then, not one that waited already.
    after = {"disk_mib": 63} if probe.before or probe.beside else {}
    return LaunchSpec(
        session_id=f"ses_hostile{next(_numbers)}",
        language=Language(probe.language),
        limits=SessionLimits().model_copy(update={**_DEFAULTS, **after, **probe.limits}),
        egress=EgressPolicy(),
    )


async def _go(backend: Backend, probe: Probe, code: str) -> Outcome:
    sandbox = await backend.launch(_spec(probe))
    started = time.monotonic()
    try:
        return await _finish(await sandbox.run(code), started)
    finally:
        await sandbox.teardown()


async def _finish(workload: Workload, started: float) -> Outcome:
    printed = 0
    async for output in workload.output():
        printed += len(output.data) if isinstance(output, Output) and output.stream == "stdout" else 0
    try:
        ended = await workload.wait()
    except SandboxLost:
        return Outcome(lost=True, printed=printed, milliseconds=1000 * (time.monotonic() - started))
    return Outcome(
        result=_result(ended),
        code=ended.code,
        reason=ended.kill_reason,
        printed=printed,
        milliseconds=1000 * (time.monotonic() - started),
    )


def _result(ended: Exit) -> str | None:
    if ended.value is None:
        return ended.value_error and f"refused: {ended.value_error}"
    try:
        value = json.loads(ended.value)
    except (ValueError, RecursionError):
        return "not JSON"
    return value if isinstance(value, str) else json.dumps(value)
