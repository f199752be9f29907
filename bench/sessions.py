"""What a session costs: the whole HTTP round trip with its durable audit, beside bare interpreters in the same minute.

`make bench` runs it. Machines are shared and noisy, so every figure has a ratio to something that was run in turn with
it. Nothing here is asserted. The client is http.client on one kept-alive connection a thread.
"""

import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from enclave.backends.local import build, machine
from enclave.contracts.errors import EnclaveError
from enclave.contracts.identity import Credential
from enclave.serve import embedded

PYTHON = "print('hi')"
NODE = "console.log('hi')"
PANDAS = """
import pandas
frame = pandas.DataFrame({"key": [1, 2] * 500, "value": range(1000)})
assert frame.groupby("key").value.mean().tolist() == [499.0, 500.0]
print("hi")
"""
TEMPLATE = "bench"


@dataclass(frozen=True)
class Times:
    """Milliseconds of many runs."""

    values: list[float]

    def p(self, percent: float) -> float:
        return sorted(self.values)[min(len(self.values) - 1, int(len(self.values) * percent / 100))]

    def __str__(self) -> str:
        return f"p50 {self.p(50):7.2f} ms   p99 {self.p(99):7.2f} ms"


class Caller:
    """One connection that runs sessions to their end."""

    def __init__(self, credential: Credential) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(credential.base_url).netloc)
        self._headers = {
            "Authorization": f"Bearer {credential.api_key}",
            "Content-Type": "application/json",
            "Prefer": "wait=60",
        }

    def run(self, code: str, language: str = "python", template: str | None = None) -> None:
        body = json.dumps({"code": code, "language": language, "template": template})
        self._connection.request("POST", "/sessions", body, self._headers)
        response = self._connection.getresponse()
        session = json.loads(response.read())
        if session.get("phase") != "succeeded" or session["result"]["stdout"] != "hi\n":
            raise SystemExit(f"a session went wrong: {response.status} {session}")


def milliseconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


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


def sequential(caller: Caller, rounds: int) -> None:
    acts = {"session": lambda: caller.run(PYTHON), **rivals(machine.python().path)}
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            times[name].append(milliseconds(act))
    ours = Times(times["session"])
    print(f"one after another, {rounds} rounds in turn")
    for name, values in times.items():
        ratio = ours.p(50) / Times(values).p(50)
        print(f"  {name:24} {Times(values)}" + ("" if name == "session" else f"   session/this {ratio:.2f}"))


def back_to_back(caller: Caller, count: int) -> None:
    times = Times([milliseconds(lambda: caller.run(PYTHON)) for _ in range(count)])
    print(f"back to back, {count}\n  {'session':24} {times}   {1000 / statistics.mean(times.values):.0f}/s")


def node(caller: Caller, rounds: int) -> None:
    found = machine.node()
    if found is None:
        print("node: not installed, not measured")
        return
    ours, bare = [], []
    for _ in range(rounds):
        ours.append(milliseconds(lambda: caller.run(NODE, "node")))
        bare.append(milliseconds(command(found.path, "-e", NODE)))
    print(f"node, {rounds} rounds in turn\n  {'session':24} {Times(ours)}")
    print(f"  {'bare node -e':24} {Times(bare)}   session/this {Times(ours).p(50) / Times(bare).p(50):.2f}")


def pandas(caller: Caller, where: Path, rounds: int) -> None:
    try:
        build.build(where, build.wanted(TEMPLATE, ["pandas"], ["pandas"], None))
    except EnclaveError as error:
        print(f"pandas: cannot be installed, not measured: {error.detail}")
        return
    first = milliseconds(lambda: caller.run(PANDAS, template=TEMPLATE))
    ours, cold = [], []
    for _ in range(rounds):
        ours.append(milliseconds(lambda: caller.run(PANDAS, template=TEMPLATE)))
        cold.append(milliseconds(command(str(where / TEMPLATE / "venv/bin/python"), "-I", "-c", PANDAS)))
    print(f"import pandas and a groupby, {rounds} rounds in turn; the first session, launcher included {first:.0f} ms")
    print(f"  {'session, preloaded':24} {Times(ours)}")
    print(f"  {'cold interpreter':24} {Times(cold)}   session/this {Times(ours).p(50) / Times(cold).p(50):.3f}")


def together(credential: Credential, threads: int, each: int) -> float:
    """Seconds that `threads` callers take for `each` sessions apiece, started at once."""
    gate = threading.Barrier(threads + 1)
    failures: list[BaseException] = []

    def work() -> None:
        caller = Caller(credential)
        gate.wait()
        try:
            for _ in range(each):
                caller.run(PYTHON)
        except BaseException as error:  # reported by the main thread
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began


def main() -> None:
    scale = float(os.environ.get("BENCH_SCALE", "1"))
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as home, embedded(Path(home)) as credential:
        caller = Caller(credential)
        for _ in range(20):
            caller.run(PYTHON)
        time.sleep(1)
        sequential(caller, int(150 * scale))
        back_to_back(caller, int(300 * scale))
        time.sleep(1)
        seconds = together(credential, 16, int(40 * scale))
        print(f"16 at a time: {16 * int(40 * scale) / seconds:.0f} sessions/s")
        time.sleep(2)
        print(f"100 at once: all done in {together(credential, 100, 1) * 1000:.0f} ms")
        time.sleep(1)
        node(Caller(credential), int(20 * scale))
        pandas(Caller(credential), Path(home) / "templates", int(20 * scale))


if __name__ == "__main__":
    main()
