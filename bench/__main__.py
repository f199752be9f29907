"""`make bench`: all figures in one run, as a table.

Machines are shared and noisy, so what can be has a ratio to something that was run in turn with it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console

from bench import audit, egress, endurance, identity, latency, memory, processor, quota, store, tenancy, tree
from bench.caller import PYTHON, Caller
from bench.figure import Figure, show
from enclave.contracts.identity import Credential
from enclave.serve import embedded


def measure(credential: Credential, home: Path, asked: argparse.Namespace) -> Iterator[Figure]:
    """What is measured of a server as it comes."""
    caller = Caller(credential)

    def some(count: int) -> int:
        return max(1, int(count * asked.scale))

    yield from memory.idle()
    _warm_up(caller)
    yield from latency.sequential(caller, some(150))
    yield from latency.back_to_back(caller, some(300))
    yield from quota.checked(caller, home, some(200))
    yield from processor.computing(caller, some(7))
    yield from latency.at_once(credential, some(40))
    yield from endurance.live(caller, asked.live)
    caller.close()
    time.sleep(1)
    yield from latency.node(caller, some(20))
    yield from latency.pandas(caller, home / "templates", some(20))


def endure(credential: Credential, _: Path, asked: argparse.Namespace) -> Iterator[Figure]:
    """What is measured of a server whose pool does not grow, so that what it holds can be compared."""
    caller = Caller(credential)
    _warm_up(caller)
    yield from endurance.soak(caller, asked.sessions)


def outlast(credential: Credential, _: Path, asked: argparse.Namespace) -> Iterator[Figure]:
    """What it takes to keep what sessions print, and to tell it to many."""
    caller = Caller(credential)
    _warm_up(caller)
    yield from endurance.journal(caller, max(1, int(20 * asked.scale)))
    caller.close()
    yield from endurance.followed(credential, asked.followers)


def recover(asked: argparse.Namespace) -> Iterator[Figure]:
    """What becomes of sessions whose server is killed."""
    os.environ["ENCLAVE_MAX_CONCURRENCY"] = str(max(256, asked.live + 16))
    with tempfile.TemporaryDirectory() as place:
        yield from said(endurance.lost(Path(place) / "home", asked.live))


def _warm_up(caller: Caller) -> None:
    for _ in range(20):
        caller.run(PYTHON)
    time.sleep(1)


Measure = Callable[[Credential, Path, argparse.Namespace], Iterator[Figure]]


def run(asked: argparse.Namespace, act: Measure, **settings: int) -> Iterator[Figure]:
    """The figures of one server."""
    os.environ |= {f"ENCLAVE_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory() as home, embedded(Path(home)) as credential:
        yield from said(act(credential, Path(home), asked))


def said(figures: Iterable[Figure]) -> Iterator[Figure]:
    """Each as it comes."""
    for figure in figures:
        _say(f"{figure.what}: {figure.figure}  {figure.beside}")
        yield figure


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--sessions", type=int, default=2000, help="of the soak; 10000 takes minutes")
    parser.add_argument("--live", type=int, default=500, help="sessions alive at once")
    parser.add_argument(
        "--tenants", type=int, default=20_000, help="sessions beside others' 1000; 1000000 takes minutes"
    )
    parser.add_argument("--followers", type=int, default=1000, help="idle subscribers of one session")
    parser.add_argument("--scale", type=float, default=1.0, help="of the rounds of everything else")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    _say(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    figures = [*run(asked, measure, max_concurrency=max(256, asked.live + 16))]
    figures += recover(asked)
    figures += run(asked, outlast)
    figures += run(asked, endure, pool=tree.WARM)
    figures += said(egress.measure(asked.scale))
    figures += said(store.measure(asked.scale))
    figures += said(tenancy.measure(asked.tenants, max(1, int(500 * asked.scale))))
    figures += said(identity.measure(asked.scale))
    figures += said(audit.measure(max(1000, int(200_000 * asked.scale))))
    show(figures)


if __name__ == "__main__":
    main()
