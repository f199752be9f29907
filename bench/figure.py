"""Figures, what they are measured against, and the table of them."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

_progress = Console(stderr=True)
_WIDTH = 150


@dataclass(frozen=True)
class Figure:
    """One line of the table. A `bar` is what is aimed at, in words, and `holds` whether it was met."""

    what: str
    figure: str
    beside: str = ""
    ratio: float | None = None
    bar: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Times:
    """Milliseconds of many runs."""

    values: Sequence[float]

    def p(self, percent: float) -> float:
        return sorted(self.values)[min(len(self.values) - 1, int(len(self.values) * percent / 100))]

    @property
    def rate(self) -> float:
        """How many a second, one after another."""
        return 1000 / statistics.mean(self.values)

    def __str__(self) -> str:
        return f"p50 {self.p(50):.2f}, p99 {self.p(99):.2f} ms"


def against(what: str, ours: Times, name: str, other: Times) -> Figure:
    """Our times beside those of the same thing done another way, in turn."""
    return Figure(what, str(ours), f"{name}: p50 {other.p(50):.2f} ms", ours.p(50) / other.p(50))


def rounds(count: int, what: str) -> Iterable[int]:
    """Count up to `count` with a progress bar."""
    return track(range(count), what, console=_progress, transient=True)


def timed(act: Callable[[], object], clock: Callable[[], float]) -> float:
    """Milliseconds that `act` takes."""
    began = clock()
    act()
    return (clock() - began) * 1000


def show(figures: Iterable[Figure]) -> None:
    """Print the table."""
    table = Table("what", "figure", "beside", "ratio", "bar", "")
    for line in figures:
        ratio = "" if line.ratio is None else f"{line.ratio:.3f}"
        verdict = {None: "", True: "[green]holds[/]", False: "[red]missed[/]"}[line.holds]
        table.add_row(line.what, line.figure, line.beside, ratio, line.bar, verdict)
    screen = Console()
    Console(width=None if screen.is_terminal else _WIDTH).print(table)
