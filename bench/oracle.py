"""Whether the time of an answer tells what its words do not: another org's or nobody's, a known user or none.

`python -m bench.oracle` asks both in random order, on one connection, and prints for each pair how well one answer
tells them apart (0.500 is not at all), how probable so great a difference is if there is none, and the difference of
the medians with a 95 % interval. Nothing here is a test: on a shared machine any threshold would be wrong at times.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_hex
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.acceptance.installation import Installation, Org, installation, missing

from bench.figure import rounds
from enclave.contracts.identity import Role
from enclave.contracts.operations import OPERATIONS, Operation

Ask = Callable[[], float]
"""Milliseconds that an answer takes."""


@dataclass(frozen=True)
class Pair:
    """Two things that are to look alike."""

    what: str
    asks: tuple[Ask, Ask]
    count: int


@dataclass(frozen=True)
class Request:
    """Something to ask, and the status that it is to get."""

    method: str
    path: str
    status: int
    body: Any = None
    credential: str | None = None

    def on(self, connection: HTTPConnection) -> float:
        """Milliseconds until it is answered."""
        headers = {"authorization": f"Bearer {self.credential}"} if self.credential else {}
        data = None if self.body is None else json.dumps(self.body)
        began = time.perf_counter()
        connection.request(self.method, self.path, data, headers)
        answer = connection.getresponse()
        answer.read()
        took = (time.perf_counter() - began) * 1000
        if answer.status != self.status:
            raise SystemExit(f"{self} got {answer.status}")
        return took


def pair(what: str, asks: Iterable[Ask], count: int) -> Pair:
    """Theirs and nobody's, so many times each."""
    theirs, nobodys = asks
    return Pair(what, (theirs, nobodys), count)


def naming(at: Installation, count: int) -> Iterator[Pair]:
    """Another org's thing and none, for each operation that names one."""
    connection = HTTPConnection(at.client.netloc)
    for operation in OPERATIONS:
        if "{" in operation.path and not operation.replaced and not operation.operator:
            theirs = at.made(operation, at.b)
            asks = (_asked(connection, at.a, operation, named) for named in (theirs, missing(theirs)))
            yield pair(operation.name, asks, count)


def _asked(connection: HTTPConnection, org: Org, operation: Operation, named: dict[str, str]) -> Ask:
    body = {"role": "viewer"} if operation.body else None
    asked = Request(operation.method, operation.path.format(**named), 404, body, org.tokens[Role.OWNER])
    return lambda: asked.on(connection)


def credentials(at: Installation, count: int) -> Iterator[Pair]:
    """A key whose id there is, an invitation whose id there is, and neither."""
    connection, wrong = HTTPConnection(at.client.netloc), "A" * 43
    known = at.b.keys[Role.OWNER].split("_")[1]
    keys = [Request("GET", "/whoami", 401, None, f"ek_{key}_{wrong}") for key in (known, "0" * 16)]
    yield pair("a key of a known id", (_sent(connection, one) for one in keys), count)
    email = {"email": "x@example.org", "role": "viewer"}
    invited = at.client.get("POST", "/invitations", email, at.b.owner)["id"]
    codes = [{"code": f"ei_{one}_{wrong}", "password": "a long password"} for one in (invited, "0" * 16)]
    asked = [Request("POST", "/invitations/accept", 401, body) for body in codes]
    yield pair("a code of a known id", (_sent(connection, one) for one in asked), count)


def _sent(connection: HTTPConnection, asked: Request) -> Ask:
    return lambda: asked.on(connection)


def passwords(at: Installation) -> Iterator[Pair]:
    """A user with another password, and no user; from so many addresses that none is refused for its number."""
    known = iter([email for org in (at.a, at.b) for email in org.emails.values()] * 45)
    addresses = (f"127.0.{number >> 8}.{number & 255}" for number in range(300, 9000))

    def refused(email: str) -> float:
        connection = HTTPConnection(at.client.netloc, source_address=(next(addresses), 0))
        connection.connect()
        took = Request("POST", "/login", 401, {"email": email, "password": "not this one"}).on(connection)
        connection.close()
        return took

    asks = (lambda: refused(next(known)), lambda: refused(f"{token_hex(4)}@example.org"))
    yield pair("login", asks, 400)


def measure(pair: Pair) -> tuple[list[float], list[float]]:
    """The times of both, in random order."""
    dice = random.Random(0)
    order = [0, 1] * pair.count
    dice.shuffle(order)
    times: tuple[list[float], list[float]] = ([], [])
    for place, _ in zip(order, rounds(len(order), pair.what), strict=True):
        times[place].append(pair.asks[place]())
    return times


def told_apart(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The chance that one's time is above the other's (Mann and Whitney's U over its most), and the probability of one
    so far from a half where both are of one distribution."""
    below = sorted(other)
    wins = sum((bisect_left(below, value) + bisect_right(below, value)) / 2 for value in one)
    n, m = len(one), len(other)
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    return wins / (n * m), math.erfc(abs(wins - n * m / 2) / deviation / math.sqrt(2))


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Of the medians, in microseconds, and a 95 % interval of it by resampling."""
    dice = random.Random(0)

    def median(values: Sequence[float]) -> float:
        return statistics.median(dice.choices(values, k=len(values)))

    drawn = sorted((median(one) - median(other)) * 1000 for _ in range(400))
    return (statistics.median(one) - statistics.median(other)) * 1000, drawn[10], drawn[389]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.oracle", description=__doc__)
    parser.add_argument("--only", default="", help="pairs whose name has this in it")
    parser.add_argument("--count", type=int, default=2000, help="of each, but sign-ins")
    asked = parser.parse_args()
    table = Table("what", "theirs, p50", "nobody's, p50", "difference of medians", "told apart", "p")
    with tempfile.TemporaryDirectory() as home, installation(Path(home)) as at:
        for pair in (*naming(at, asked.count), *credentials(at, asked.count), *passwords(at)):
            if asked.only not in pair.what:
                continue
            theirs, nobodys = measure(pair)
            chance, probability = told_apart(theirs, nobodys)
            apart, low, high = difference(theirs, nobodys)
            medians = (f"{statistics.median(times):.3f} ms" for times in (theirs, nobodys))
            told = f"{apart:+.1f} µs ({low:+.1f} to {high:+.1f})"
            table.add_row(pair.what, *medians, told, f"{chance:.3f}", f"{probability:.3f}")
            print(pair.what, file=sys.stderr)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
