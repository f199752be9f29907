"""What the walls cost a program that only computes: the same one inside and outside, in turn."""

import json
import statistics
import subprocess
from collections.abc import Iterator

from bench.caller import Caller
from bench.figure import Figure, rounds
from enclave.backends.local import machine

_BAR = 1.02
_SPIN = """
import time

def spin():
    total, table = 0.0, {n: n * 0.5 for n in range(64)}
    for n in range(40_000_000):
        total += table[n & 63] * n
        if n % 3 == 0:
            total -= n
    return total

wall, cpu = time.perf_counter(), time.process_time()
spin()
spent = [time.process_time() - cpu, time.perf_counter() - wall]
"""
INSIDE = _SPIN + "enclave.result(spent)\nprint('hi')\n"
OUTSIDE = _SPIN + "import json\nprint(json.dumps(spent))\n"


def computing(caller: Caller, pairs: int) -> Iterator[Figure]:
    """CPU and wall time of a loop of about two seconds, ours over those of the same bare interpreter."""
    inside, outside = [], []
    for turn in rounds(pairs, "computing"):
        for here in (turn % 2 == 0, turn % 2 == 1):
            if here:
                caller.close()
                inside.append(caller.run(INSIDE))
            else:
                outside.append(_bare())
    for place, name in enumerate(("CPU", "wall")):
        ours, bare = (statistics.median(run[place] for run in runs) for runs in (inside, outside))
        yield Figure(
            f"computing, {name} time",
            f"{ours:.3f} s",
            f"bare python3 -I: {bare:.3f} s, {pairs} pairs",
            ours / bare,
            "1.02 of bare" if name == "CPU" else "",
            ours / bare <= _BAR if name == "CPU" else None,
        )


def _bare() -> list[float]:
    argv = [machine.python().path, "-I", "-c", OUTSIDE]
    spent: list[float] = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    return spent
