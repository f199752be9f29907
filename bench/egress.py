"""What the way out costs: each act from inside a sandbox beside the same one made directly, over the same pair of veth.

Both are one program, run by the same interpreter in turn, which measures itself. `python -m bench.egress` measures
nothing else.
"""

import asyncio
import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bench import tree
from bench.figure import Figure, Times, rounds, show
from bench.network import NAME, SERVER, Network, available, network
from enclave.backends.base import LaunchSpec, Output, Sandbox
from enclave.backends.local import LocalBackend, broker
from enclave.contracts.policy import EgressMode, EgressPolicy, Language, SessionLimits
from enclave.core.egress import Floor
from enclave.core.grant import Grant

_PRELUDE = f"""
import http.client, json, os, resource, socket, ssl, time
SERVER, NAME = {SERVER!r}, {NAME!r}
def clock(act, count):
    spent = []
    for _ in range(count):
        began = time.perf_counter_ns()
        made = act()
        spent.append((time.perf_counter_ns() - began) / 1e6)
        if made is not None: made.close()
    return spent
def connect():
    s = socket.socket()
    s.connect((SERVER, 80))
    return s
def denied():
    with socket.socket() as s:
        if s.connect_ex((SERVER, 80)) != 13: raise SystemExit('a connect was not denied')
def bulk(size):
    s = connect()
    s.sendall(b'GET /big/%d HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n' % (size, NAME.encode()))
    buffer = bytearray(1 << 20)
    began = time.perf_counter()
    left = size
    while left > 0: left -= s.recv_into(buffer) or exit('cut short')
    return size / (time.perf_counter() - began) / 1e6
def call(connection):
    connection.request('GET', '/v1/items')
    if len(connection.getresponse().read()) != 1024: raise SystemExit('an answer went wrong')
"""
_CONNECTS = "spent = clock(connect, 200)"
_NAMED = f"socket.getaddrinfo({NAME!r}, 80)\n"
_DENIED = "denied(); spent = clock(denied, 500)"
_BULK_MIB = 1024
_BULK = f"spent = bulk({_BULK_MIB} << 20)"
_BOUND = """
bound = http.client.HTTPConnection(os.environ['ENCLAVE_SVC_BENCH'].removeprefix('http://'))
call(bound)
spent = clock(lambda: call(bound), 300)
"""
_DIRECT = """
direct = http.client.HTTPSConnection(NAME, context=ssl.create_default_context(cafile={authority!r}))
call(direct)
spent = clock(lambda: call(direct), 300)
"""
_HELD = 1000
_HOLD = f"""
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held = []
for _ in range({_HELD}):
    s = connect()
    s.sendall(b'GET / HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n' % NAME.encode())
    held.append(s)
for s in held:
    if s.recv(15) != b'HTTP/1.1 200 OK': raise SystemExit('an answer went wrong')
print('held', flush=True)
socket.socketpair()[0].recv(1)
"""
_CONNECT_BAR_MS, _DENIED_BAR_MS = 1.0, 0.5
_CALL_BAR_MS, _CALL_TAIL_BAR_MS = 3.0, 15.0
_BULK_BAR, _NAMED_BULK_BAR = 0.95, 0.5
_HELD_BAR_MIB = 200


@dataclass
class Site:
    """Where sandboxes are started, and what is reached without one."""

    loop: asyncio.Runner
    backend: LocalBackend
    network: Network

    def inside(self, code: str, *allow: str, grants: Sequence[Grant] = ()) -> Any:
        """What a program in a sandbox measured."""
        return self.loop.run(self._inside(_PRELUDE + code + "\nenclave.result(spent)", allow, tuple(grants)))

    def outside(self, code: str) -> Any:
        """What the same program measured without one."""
        return self.network.direct(_PRELUDE + code + "\nprint(json.dumps(spent))")

    async def launch(self, allow: Sequence[str], grants: tuple[Grant, ...] = ()) -> Sandbox:
        egress = EgressPolicy(mode=EgressMode.ALLOWLIST if allow else EgressMode.DENY_ALL, allow=tuple(allow))
        limits = SessionLimits(memory_mib=512, cpus=1, wall_clock_seconds=60, cpu_seconds=60)
        return await self.backend.launch(
            LaunchSpec(
                session_id=f"ses_bench{os.urandom(4).hex()}",
                language=Language.PYTHON,
                limits=limits,
                egress=egress,
                template=None,
                bindings=grants,
            )
        )

    async def _inside(self, code: str, allow: Sequence[str], grants: tuple[Grant, ...]) -> Any:
        sandbox = await self.launch(allow, grants)
        workload = await sandbox.run(code)
        said = b"".join([item.data async for item in workload.output() if isinstance(item, Output)])
        ended = await workload.wait()
        await sandbox.teardown()
        if ended.value is None:
            raise SystemExit(f"a program went wrong: {said.decode()} {ended}")
        return json.loads(ended.value)


def measure(scale: float = 1.0) -> Iterator[Figure]:
    """All of it, on a network of its own."""
    if not available():
        yield Figure("egress", "a network namespace needs root and iproute2, not measured")
        return
    count = max(1, int(5 * scale))
    with _site() as site:
        yield _untold(site)
        yield _denied(site, count)
        for what, rule, first in (("addresses", SERVER, ""), ("names", NAME, _NAMED)):
            yield _connects(site, count, f"connect, rule on {what}", (rule, first))
        yield _bulk(site, 2 * count, "bulk, rule on addresses", (SERVER, "", _BULK_BAR))
        yield _bulk(site, 2 * count, "bulk, rule on names", (NAME, _NAMED, _NAMED_BULK_BAR))
        yield from _calls(site, count)
        yield _held(site)


@contextlib.contextmanager
def _site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as home, network(Path(home)) as made, asyncio.Runner() as loop:
        backend = LocalBackend(home=Path(home), pool=2, egress=Floor(authorities=str(made.authority)))
        with mock.patch.object(broker, "PROGRAM", made.broker):
            loop.run(backend.start())
            try:
                yield Site(loop, backend, made)
            finally:
                loop.run(backend.close())


def _untold(site: Site) -> Figure:
    with mock.patch.object(broker.Broker, "admit", autospec=True, side_effect=broker.Broker.admit) as admit:
        site.inside("spent = 0")
    said = f"{admit.call_count} messages to the broker"
    return Figure("a session without connections", said, bar="0", holds=admit.call_count == 0)


def _denied(site: Site, count: int) -> Figure:
    times = Times([ms for _ in rounds(count, "denied connects") for ms in site.inside(_DENIED)])
    return Figure("denied connect", str(times), bar=f"{_DENIED_BAR_MS} ms", holds=times.p(50) <= _DENIED_BAR_MS)


def _connects(site: Site, count: int, what: str, allowed: tuple[str, str]) -> Figure:
    rule, first = allowed
    ours, other = [], []
    for _ in rounds(count, what):
        ours += site.inside(first + _CONNECTS, rule)
        other += site.outside(_CONNECTS)
    return _over(what, Times(ours), Times(other), _CONNECT_BAR_MS)


def _over(what: str, ours: Times, other: Times, bar: float) -> Figure:
    more = ours.p(50) - other.p(50)
    beside = f"direct: p50 {other.p(50):.2f}, p99 {other.p(99):.2f} ms; {more:.2f} ms over it"
    return Figure(what, str(ours), beside, bar=f"{bar} ms over", holds=more <= bar)


def _bulk(site: Site, count: int, what: str, allowed: tuple[str, str, float]) -> Figure:
    rule, first, bar = allowed
    pairs = [(site.inside(first + _BULK, rule), site.outside(_BULK)) for _ in rounds(count, what)]
    ours, other = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    figure, beside = f"{ours:.0f} MB/s", f"direct: {other:.0f} MB/s, {count} pairs of {_BULK_MIB} MiB"
    return Figure(what, figure, beside, ours / other, f"{bar} of direct", ours / other >= bar)


def _calls(site: Site, count: int) -> Iterator[Figure]:
    grant = Grant(name="bench", url=f"https://{NAME}", inject="bearer", secret="sk_live_0123456789", paths=("/v1",))
    direct = _DIRECT.format(authority=str(site.network.authority))
    ours, other = [], []
    for _ in rounds(count, "injected requests"):
        ours += site.inside(_BOUND, grants=[grant])
        other += site.outside(direct)
    yield _over("HTTPS request, secret injected", Times(ours), Times(other), _CALL_BAR_MS)
    tail = Times(ours).p(99)
    yield Figure(
        "the slowest of them", f"p99 {tail:.2f} ms", bar=f"{_CALL_TAIL_BAR_MS} ms", holds=tail <= _CALL_TAIL_BAR_MS
    )


def _held(site: Site) -> Figure:
    before, during = site.loop.run(_hold(site))
    figure, beside = f"{during / 1024:.0f} MiB", f"the broker's RSS; {before / 1024:.0f} MiB before"
    return Figure(
        f"{_HELD} connections carried", figure, beside, None, f"{_HELD_BAR_MIB} MiB", during <= _HELD_BAR_MIB << 10
    )


async def _hold(site: Site) -> tuple[int, int]:
    pid = _broker()
    before = tree.rss_kib(pid)
    sandbox = await site.launch([NAME])
    workload = await sandbox.run(_PRELUDE + _NAMED + _HOLD)
    async for item in workload.output():
        if isinstance(item, Output):
            if item.data != b"held\n":
                raise SystemExit(f"a program went wrong: {item.data!r}")
            break
    during = tree.rss_kib(pid)
    await sandbox.teardown()
    return before, during


def _broker() -> int:
    return next(pid for pid in tree.children(os.getpid()) if _named(pid) == "enclave-broker")


def _named(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


if __name__ == "__main__":
    show(measure())
