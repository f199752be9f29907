"""Whether anything grows: thousands of sessions one after another, and hundreds alive at once."""

import time
from collections.abc import Iterator
from dataclasses import asdict

from bench import tree
from bench.caller import PYTHON, Caller
from bench.figure import Figure, Times, rounds

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


def _running(caller: Caller) -> list[object]:
    found: list[object] = []
    more = ""
    while True:
        page = caller.send("GET", f"/sessions?phase=running&limit=100{more}")
        found += page["items"]
        if page["nextCursor"] is None:
            return found
        more = f"&cursor={page['nextCursor']}"
