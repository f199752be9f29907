"""`python -m tests.hostile`: the matrix of probes and verdicts. Exits with 1 if anything leaked."""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from enclave.backends.local import LocalBackend, machine
from tests.hostile import host
from tests.hostile.corpus import FAMILIES, PROBES
from tests.hostile.probe import Outcome, Probe, Verdict, judge
from tests.hostile.running import run_all


async def measure(probes: list[Probe], home: Path) -> dict[str, Outcome]:
    backend = LocalBackend(home=home, pool=2)
    await backend.start()
    try:
        with host.facts() as facts:
            return await run_all(backend, probes, facts)
    finally:
        await backend.close()


def row(probe: Probe, outcome: Outcome) -> str:
    verdict = judge(probe.expect, outcome)
    cells = f"{probe.family:26} {probe.name:44} {probe.expect.verdict:9} {verdict:9} {outcome.milliseconds:7.1f}"
    return cells if verdict == probe.expect.verdict else f"{cells}  {outcome}"


def summary(probes: list[Probe], verdicts: Mapping[str, Verdict], seconds: float) -> list[str]:
    lines = []
    for family in FAMILIES:
        counts = Counter(verdicts[probe.name].value for probe in probes if probe.family == family)
        lines.append(f"{family:26} {counts.total():4}  " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items())))
    fixed = [probe.name for probe in probes if probe.fixed]
    languages = Counter(probe.language for probe in probes)
    told = ", ".join(f"{n} {language}" for language, n in sorted(languages.items()))
    lines.append(f"{'all':26} {len(probes):4}  {told}; {len(fixed)} whose control no test can remove; {seconds:.1f} s")
    return lines


def main() -> int:
    probes = [probe for probe in PROBES if probe.language == "python" or machine.node() is not None]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        outcomes = asyncio.run(measure(probes, Path(home)))
    verdicts = {probe.name: judge(probe.expect, outcomes[probe.name]) for probe in probes}
    print("\n".join(row(probe, outcomes[probe.name]) for probe in probes))
    print("\n" + "\n".join(summary(probes, verdicts, time.monotonic() - started)))
    wrong = [probe for probe in probes if verdicts[probe.name] != probe.expect.verdict]
    for probe in wrong:
        print(f"{probe.name}: {f'known: {probe.known}' if probe.known else 'a defect'}")
    return int(any(not probe.known for probe in wrong))


if __name__ == "__main__":
    sys.exit(main())
