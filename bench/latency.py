"""How long a session takes: the whole HTTP round trip with its durable audit, beside bare interpreters in turn."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.caller import PYTHON, Caller, together
from bench.figure import Figure, Times, against, rounds, timed
from enclave.backends.local import build, machine
from enclave.contracts.errors import EnclaveError
from enclave.contracts.identity import Credential

NODE = "console.log('hi')"
PANDAS = """
import pandas
frame = pandas.DataFrame({"key": [1, 2] * 500, "value": range(1000)})
assert frame.groupby("key").value.mean().tolist() == [499.0, 500.0]
print("hi")
"""
TEMPLATE = "bench"


def command(*argv: str) -> Callable[[], object]:
    return lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)


def rivals(python: str) -> dict[str, Callable[[], object]]:
    """What the same program costs without us, by what this machine has."""
    found: dict[str, Callable[[], object]] = {"bare python3 -I -c": command(python, "-I", "-c", PYTHON)}
    if bwrap := shutil.which("bwrap"):
        links = [part for name in ("bin", "lib", "lib64") for part in ("--symlink", f"usr/{name}", f"/{name}")]
        walls = [bwrap, "--unshare-all", "--ro-bind", "/usr", "/usr", *links, "--proc", "/proc", "--dev", "/dev"]
        found["bwrap python3 -I -c"] = command(*walls, python, "-I", "-c", PYTHON)
    return found


def in_turn(count: int, what: str, acts: dict[str, Callable[[], object]]) -> dict[str, Times]:
    """The times of each act, one of each after another."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in rounds(count, what):
        for name, act in acts.items():
            times[name].append(timed(act, time.perf_counter))
    return {name: Times(values) for name, values in times.items()}


def sequential(caller: Caller, count: int) -> Iterator[Figure]:
    acts = {"session": lambda: caller.run(PYTHON), **rivals(machine.python().path)}
    times = in_turn(count, "one after another", acts)
    ours = times.pop("session")
    for name, other in times.items():
        yield against("print('hi')", ours, name, other)


def back_to_back(caller: Caller, count: int) -> Iterator[Figure]:
    times = Times([caller.time(PYTHON) for _ in rounds(count, "back to back")])
    yield Figure("back to back", str(times), f"{times.rate:.0f} a second")


def at_once(credential: Credential, each: int) -> Iterator[Figure]:
    seconds = together(credential, 16, each)
    yield Figure("16 at a time", f"{16 * each / seconds:.0f} a second")
    time.sleep(2)
    yield Figure("100 at once", f"all done in {together(credential, 100, 1) * 1000:.0f} ms")


def node(caller: Caller, count: int) -> Iterator[Figure]:
    found = machine.node()
    if found is None:
        yield Figure("node", "not installed, not measured")
        return
    acts = {"session": lambda: caller.run(NODE, "node"), "bare": command(found.path, "-e", NODE)}
    times = in_turn(count, "node", acts)
    yield against("node, console.log('hi')", times["session"], "bare node -e", times["bare"])


def pandas(caller: Caller, where: Path, count: int) -> Iterator[Figure]:
    try:
        build.build(where, build.wanted(TEMPLATE, ["pandas"], ["pandas"], None))
    except EnclaveError as error:
        yield Figure("pandas", f"cannot be installed, not measured: {error.detail}")
        return
    caller.close()
    first = caller.time(PANDAS, template=TEMPLATE)
    cold = command(str(where / TEMPLATE / "venv/bin/python"), "-I", "-c", PANDAS)
    times = in_turn(count, "pandas", {"session": lambda: caller.run(PANDAS, template=TEMPLATE), "cold": cold})
    yield against("import pandas, a groupby", times["session"], "cold interpreter", times["cold"])
    yield Figure("the first of them", f"{first:.0f} ms, its launcher included")
