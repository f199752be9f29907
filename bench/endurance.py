"""Whether anything grows: thousands of sessions one after another, and hundreds alive at once, or followed, or lost."""

import http.client
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from bench import tree
from bench.caller import PYTHON, Caller
from bench.figure import Figure, Times, against, rounds
from enclave.contracts.identity import Credential
from enclave.serve import embedded

LIVE = "import time\nprint('hi')\ntime.sleep(25)\n"


NAMES = {
    "descriptors": "open descriptors",
    "processes": "processes",
    "mounts": "mounts",
    "cgroups": "cgroups",
    "server_kib": "KiB RSS of the server",
    "launcher_kib": "KiB RSS of the launcher",
}


def soak(caller: Caller, count: int) -> Iterator[Figure]:
    """What the server holds before and after many sessions, and how long the first and the last of them took."""
    tree.until(lambda: len(tree.sandboxes()) >= tree.WARM, 10)
    before = tree.holdings()
    times = [caller.time(PYTHON) for _ in rounds(count, "soak")]
    caller.close()
    tree.until(lambda: tree.holdings().processes == before.processes, 10)
    after = asdict(tree.holdings())
    tenth = max(1, count // 10)
    first, last = Times(times[:tenth]), Times(times[-tenth:])
    beside, ratio = f"first tenth: p50 {first.p(50):.2f} ms", last.p(50) / first.p(50)
    yield Figure(f"{count} sessions, last tenth", f"p50 {last.p(50):.2f} ms", beside, ratio)
    for name, was in asdict(before).items():
        what, now = f"  then: {NAMES[name]}", after[name]
        if name.endswith("_kib"):
            yield Figure(what, str(now), f"before: {was}", now / was)
        else:
            yield Figure(what, str(now), f"before: {was}", now / was, "no more than before", now <= was)


def live(caller: Caller, count: int) -> Iterator[Figure]:
    """How long it takes until `count` sessions run at the same time, and to end them."""
    caller.close()
    began = time.perf_counter()
    sent = [caller.send("POST", "/sessions", {"code": LIVE})["id"] for _ in rounds(count, "alive at once")]
    tree.until(lambda: len(_running(caller)) == count, 10)
    seconds, running = time.perf_counter() - began, len(_running(caller))
    used = sum(tree.pss_kib(pid) for pid in tree.descendants(tree.server()))
    ending = time.perf_counter()
    for session in sent:
        caller.send("DELETE", f"/sessions/{session}")
    beside = f"{used / 1024:.0f} MiB in all, {time.perf_counter() - ending:.1f} s to end them"
    bar = f"all {count}"
    yield Figure(
        f"{count} alive at once", f"{running} run after {seconds:.1f} s", beside, bar=bar, holds=running == count
    )


TALKS = "import time\nfor n in range(30): time.sleep(0.01)\nprint('hi')"
LOUD = (
    "import sys, time\nfor n in range(30): time.sleep(0.01); print('x' * 80, file=sys.stderr, flush=True)\nprint('hi')"
)


def journal(caller: Caller, count: int) -> Iterator[Figure]:
    """What it costs a program to print as it goes, beside one that prints at its end."""
    pairs = [(caller.time(LOUD), caller.time(TALKS)) for _ in rounds(count, "journal")]
    loud, quiet = (Times(times) for times in zip(*pairs, strict=True))
    yield against("30 lines over 0.3 s, journalled", loud, "one line at the end", quiet)


def followed(credential: Credential, count: int) -> Iterator[Figure]:
    """What subscribers cost who wait for a session that says nothing."""
    caller = Caller(credential)
    session = caller.send("POST", "/sessions", {"code": LIVE})["id"]
    tree.until(lambda: bool(_running(caller)), 10)
    before = tree.rss_kib(tree.server())
    streams = [_stream(credential, session) for _ in rounds(count, "idle subscribers")]
    used = (tree.rss_kib(tree.server()) - before) / 1024
    for stream in streams:
        stream.close()
    caller.send("DELETE", f"/sessions/{session}")
    caller.close()
    yield Figure(f"{count} idle subscribers", f"{used:.0f} MiB", bar="< 100 MB", holds=used * 1.048576 < 100)


def _stream(credential: Credential, session: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(credential.base_url).netloc)
    connection.request("GET", f"/sessions/{session}/stream", headers={"Authorization": f"Bearer {credential.api_key}"})
    answer = connection.getresponse()
    while b"sandbox_started" not in answer.readline():
        pass
    return connection


def lost(home: Path, count: int) -> Iterator[Figure]:
    """How long a server takes to stand that finds so many sessions which ran when the one before was killed."""
    with embedded(home) as credential:
        empty = _standing_seconds(home.parent / "empty")
        caller = Caller(credential)
        sent = [caller.send("POST", "/sessions", {"code": LIVE})["id"] for _ in rounds(count, "to be lost")]
        tree.until(lambda: len(_running(caller)) == count, 20)
        caller.close()
        os.kill(tree.server(), signal.SIGKILL)
    began = time.perf_counter()
    with embedded(home) as credential:
        seconds = time.perf_counter() - began
        caller = Caller(credential)
        ended = sum(caller.send("GET", f"/sessions/{session}")["phase"] == "failed" for session in sent)
        caller.close()
    beside = f"{ended} failed, {empty:.2f} s for one that finds nothing"
    holds = ended == count and seconds - empty <= 5
    yield Figure(
        f"{count} running sessions recovered", f"{seconds:.2f} s", beside, seconds / empty, "<= 5 s more", holds
    )


def _standing_seconds(home: Path) -> float:
    began = time.perf_counter()
    with embedded(home):
        return time.perf_counter() - began


def _running(caller: Caller) -> list[object]:
    found: list[object] = []
    more = ""
    while True:
        page = caller.send("GET", f"/sessions?phase=running&limit=100{more}")
        found += page["items"]
        if page["nextCursor"] is None:
            return found
        more = f"&cursor={page['nextCursor']}"
