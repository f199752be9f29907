"""What a probe is, and how its verdict is found: data in, verdict out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """The first three are what a probe may expect; the last two fail it."""

    BLOCKED = "blocked"
    CONTAINED = "contained"
    HARMLESS = "harmless"
    LEAKED = "LEAKED"
    UNCLEAR = "UNCLEAR"


@dataclass(frozen=True, slots=True)
class Expect:
    """The one way a probe has to end; any other fails. `printed` None: not looked at."""

    verdict: Verdict
    result: str | None = None
    code: int | None = 0
    reason: str | None = None
    lost: bool = False
    printed: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a probe did end. `lost`: the sandbox died without saying how its program ended."""

    result: str | None = None
    code: int | None = None
    reason: str | None = None
    lost: bool = False
    printed: int = 0
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A small hostile program and how it has to end.

    `before` runs to its end in a sandbox of its own first, and what it gave stands in `BEFORE`; `beside` runs in one
    of its own all the while, from before this one's sandbox is made. `control` names the mutations (`mutations.py`),
    joined by `+` where walls cover one another, that together make the probe fail; or it begins with `fixed:` and says
    why no test can remove what holds here. `known` is what is wrong while the probe still leaks.
    """

    name: str
    family: str
    code: str
    expect: Expect
    control: str
    language: str = "python"
    limits: Mapping[str, float] = field(default_factory=dict)
    known: str = ""
    before: str = ""
    beside: str = ""

    @property
    def fixed(self) -> bool:
        """Whether its control cannot be removed from a test."""
        return self.control.startswith("fixed:")


def blocked(result: str) -> Expect:
    """It was refused, in just this way."""
    return Expect(Verdict.BLOCKED, f"blocked: {result}")


def killed(reason: str) -> Expect:
    """It ran into a limit and was ended for just that one."""
    return Expect(Verdict.CONTAINED, code=None, reason=reason)


def ended(code: int, result: str | None = None) -> Expect:
    """It ended with just this code."""
    return Expect(Verdict.CONTAINED, result, code)


def contained(result: str) -> Expect:
    """It got so far and no further."""
    return Expect(Verdict.CONTAINED, f"contained: {result}")


def harmless(result: str) -> Expect:
    """It was let, and nothing came of it."""
    return Expect(Verdict.HARMLESS, f"harmless: {result}")


LOST = Expect(Verdict.CONTAINED, code=None, lost=True)
"""The sandbox ended itself, and nothing else."""


def judge(expect: Expect, outcome: Outcome) -> Verdict:
    """The expected verdict if everything is as expected; else LEAKED if it says so or outlived its limit."""
    same = (outcome.result, outcome.code, outcome.reason, outcome.lost) == (
        expect.result,
        expect.code,
        expect.reason,
        expect.lost,
    )
    if same and expect.printed in (None, outcome.printed):
        return expect.verdict
    says_so = outcome.result is not None and outcome.result.startswith("leaked")
    return Verdict.LEAKED if says_so else Verdict.UNCLEAR
