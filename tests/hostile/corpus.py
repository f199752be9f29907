"""All probes, in order, and what has to hold of them together."""

import importlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tests.hostile.mutations import MUTATIONS
from tests.hostile.probe import Probe

FAMILIES: Final = (
    "filesystem",
    "proc_and_sys",
    "namespaces_and_capabilities",
    "system_calls",
    "sockets",
    "exhaustion",
    "escape_classics",
    "residue",
    "forgery",
    "signals_and_init",
)
LEAST: Final = 120


def collect() -> tuple[Probe, ...]:
    """Every probe of every family."""
    modules = [importlib.import_module(f"tests.hostile.probes.{family}") for family in FAMILIES]
    return tuple(probe for module in modules for probe in module.PROBES)


def faults(probes: Sequence[Probe]) -> list[str]:
    """What is wrong with the corpus itself; empty if nothing is."""
    twice = [name for name, count in Counter(probe.name for probe in probes).items() if count > 1]
    missing = set(FAMILIES) - {probe.family for probe in probes}
    named = {part for probe in probes if not probe.fixed for part in probe.control.split("+")}
    return [
        *[f"{name} stands twice" for name in twice],
        *[f"no probe in {family}" for family in sorted(missing)],
        *[f"no mutation is called {name}" for name in sorted(named - set(MUTATIONS))],
        *[f"no probe covers {name}" for name in sorted(set(MUTATIONS) - named)],
        *([f"only {len(probes)} probes"] if len(probes) < LEAST else []),
    ]


PROBES: Final = collect()
