"""Every probe ends the one way it has to."""

import pytest
from _pytest.mark import ParameterSet

from tests.hostile.corpus import PROBES, faults
from tests.hostile.probe import Outcome, Probe, judge


def test_the_corpus_is_whole() -> None:
    assert faults(PROBES) == []


def marked(probe: Probe) -> ParameterSet:
    marks = [pytest.mark.node] if probe.language == "node" else []
    known = [pytest.mark.xfail(reason=probe.known)] if probe.known else []
    return pytest.param(probe, id=probe.name, marks=[*marks, *known])


@pytest.mark.sandbox
@pytest.mark.root
@pytest.mark.anyio
@pytest.mark.parametrize("probe", [marked(probe) for probe in PROBES])
async def test_a_hostile_program_gets_nothing(probe: Probe, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[probe.name]

    assert judge(probe.expect, outcome) == probe.expect.verdict, outcome
