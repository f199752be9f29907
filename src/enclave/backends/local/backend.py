"""The local backend: sessions in, launcher orders out, reports back to whoever waits."""

import asyncio
import contextlib
import itertools
import json
import logging
import resource
from dataclasses import replace
from pathlib import Path
from typing import Final

from enclave.backends.base import Check, LaunchSpec, Sandbox, Workload
from enclave.backends.local import connection, machine
from enclave.backends.local.connection import Connection, Report
from enclave.backends.local.workload import LocalWorkload
from enclave.contracts.errors import Unavailable
from enclave.contracts.policy import Guarantee, Language, SessionLimits
from enclave.sandbox import init, wire

MIB: Final = 1024 * 1024
_WARM: Final = {Language.PYTHON: 16, Language.NODE: 2}
"""The least sandboxes of each language to keep ready, unless the operator says otherwise."""
_RESTART_SECONDS: Final = (0.0, 0.2, 1.0, 5.0)

_ENFORCED: Final = frozenset(
    {
        Guarantee.ISOLATION,
        Guarantee.MEMORY_LIMIT,
        Guarantee.CPU_BUDGET,
        Guarantee.CPU_RATE,
        Guarantee.PIDS_LIMIT,
        Guarantee.WALL_CLOCK_LIMIT,
        Guarantee.DISK_LIMIT,
        Guarantee.EGRESS_DENY,
        Guarantee.PYTHON,
    }
)

_BY_CGROUP: Final = frozenset({Guarantee.MEMORY_LIMIT, Guarantee.CPU_BUDGET, Guarantee.CPU_RATE, Guarantee.PIDS_LIMIT})

log = logging.getLogger(__name__)


class LocalSandbox:
    """A sandbox of this machine; it comes into being with its program."""

    def __init__(self, backend: "LocalBackend", spec: LaunchSpec) -> None:
        self._backend = backend
        self._spec = spec
        self.number = next(backend.numbers)
        self.workload = LocalWorkload(spec.limits.output_kib * 1024)
        self.running: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping = False

    async def run(self, code: str) -> Workload:
        """Start the program. Raises Unavailable."""
        environment = {**init.GUEST_ENVIRONMENT, "ENCLAVE_SESSION_ID": self._spec.session_id, **self._spec.env}
        payload = json.dumps({"code": code, "env": environment}).encode()
        self._backend.order(_to_run(self.number, self._spec), payload, self)
        await self.running
        return self.workload

    @property
    def session_id(self) -> str:
        """Whose it is."""
        return self._spec.session_id

    async def teardown(self) -> None:
        """Stop whatever runs and wait until nothing is left."""
        self.stopping = True
        if self._backend.stop(self.number):
            await self.gone


class LocalBackend:
    """Sandboxes of this machine. `pool` is the most of them, of each language, that are kept ready."""

    name = "local"

    def __init__(self, *, home: Path, pool: int | None = None) -> None:
        self._home = home
        self._pool = pool
        self._instances: list[str] = []
        self._connection: Connection | None = None
        self.numbers = itertools.count(1)
        self._live: dict[int, LocalSandbox] = {}
        self._guarantees: frozenset[Guarantee] = frozenset()
        self._restart: asyncio.Task[None] | None = None

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """What it enforces here; empty before `start`."""
        return self._guarantees

    @property
    def instance(self) -> str:
        """The name of the present launcher's directory among the cgroups."""
        return self._instances[-1]

    @property
    def launcher_pid(self) -> int:
        """The process of the present launcher; what it does not survive, it is replaced after."""
        if self._connection is None:
            raise Unavailable("the sandbox launcher is being restarted; retry shortly")
        return self._connection.pid

    def probe(self) -> tuple[Check, ...]:
        """What this machine can enforce."""
        return machine.checks()

    async def start(self) -> None:
        """Start the launcher. Where it cannot stand, the reason is logged and the guarantees say what is missing."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        node = await asyncio.to_thread(machine.node)
        self._interpreter = await asyncio.to_thread(machine.python)
        self._order = self._configuration(node)
        machine.remove_instances()
        try:
            self._connection = await self._connect()
        except Unavailable as error:
            log.error("%s", error)
            self._guarantees = _ENFORCED - (_BY_CGROUP if machine.lacks_cgroups() else _ENFORCED)
        else:
            self._guarantees = _ENFORCED | ({Guarantee.NODE} if node else frozenset())

    async def close(self) -> None:
        """End every sandbox and the launcher, and remove what they used."""
        if self._restart is not None:
            self._restart.cancel()
        held, self._connection = self._connection, None
        if held is not None:
            await held.close()
        self._lose_all("the platform is shutting down")
        machine.remove_instances(named=self._instances)

    def healthy(self) -> bool:
        """Whether the launcher stands."""
        return self._connection is not None

    async def launch(self, spec: LaunchSpec) -> Sandbox:
        """A sandbox for the session; it is taken from the pool when its program is given."""
        if self._connection is None:
            raise Unavailable("the sandbox launcher is being restarted; retry shortly")
        return LocalSandbox(self, spec)

    async def live(self) -> frozenset[str]:
        """The ids of the sessions that have a sandbox."""
        return frozenset(sandbox.session_id for sandbox in self._live.values())

    def order(self, order: wire.Run, payload: bytes, sandbox: LocalSandbox) -> None:
        """Have the launcher start a session. Raises Unavailable."""
        if self._connection is None:
            raise Unavailable("the sandbox launcher is being restarted; retry shortly")
        self._live[order.id] = sandbox
        try:
            self._connection.send(order, payload)
        except Unavailable:
            self._forget(order.id)
            raise

    def stop(self, number: int) -> bool:
        """Have the launcher end a session; False when it has no sandbox."""
        if number not in self._live or self._connection is None:
            return False
        # A launcher that cannot take the order is dead, and then its end is reported for all.
        with contextlib.suppress(Unavailable):
            self._connection.send(wire.Kill(number))
        return True

    # -- reports ---------------------------------------------------------------------------------------------------

    def _on_report(self, report: Report, fds: list[int]) -> None:
        sandbox = self._live.get(report["id"])
        if sandbox is None:
            connection.close_all(fds)
            return
        match report["ev"]:
            case "running":
                sandbox.workload.attach(*fds)
                sandbox.running.set_result(None)
            case "refused":
                sandbox.running.set_exception(Unavailable(f"no sandbox could be made: {report['why']}"))
                self._forget(report["id"])
            case "exit" if report["code"] is None and report["reason"] is None and not sandbox.stopping:
                sandbox.workload.lose("the sandbox died before its program ended")
            case "exit":
                sandbox.workload.end(report)
            case "gone":
                self._forget(report["id"])

    def _forget(self, number: int) -> None:
        if (sandbox := self._live.pop(number, None)) is not None and not sandbox.gone.done():
            sandbox.gone.set_result(None)

    # -- the launcher ----------------------------------------------------------------------------------------------

    def _on_end(self) -> None:
        log.error("the sandbox launcher ended; its sessions are lost, and it is being restarted")
        dead, self._connection = self._connection, None
        self._lose_all("the sandbox launcher ended")
        self._restart = asyncio.get_running_loop().create_task(self._start_again(dead))

    def _lose_all(self, why: str) -> None:
        for number, sandbox in list(self._live.items()):
            if not sandbox.running.done():
                sandbox.running.set_exception(Unavailable(why))
            sandbox.workload.lose(why)
            self._forget(number)

    async def _start_again(self, dead: Connection | None) -> None:
        if dead is not None:
            await dead.close()
        machine.remove_instances(named=self._instances)
        for pause in (*_RESTART_SECONDS, *[_RESTART_SECONDS[-1]] * 1000):
            await asyncio.sleep(pause)
            try:
                self._connection = await self._connect()
            except Unavailable as error:
                log.error("%s", error)
            else:
                return

    async def _connect(self) -> Connection:
        # A name of its own for each launcher: what one that was killed leaves must not be in the way of the next.
        self._instances.append(machine.instance_name())
        order = replace(self._order, instance=self._instances[-1])
        started = await connection.start(self._interpreter.path, order)
        started.listen(self._on_report, self._on_end)
        return started

    def _bounds(self, language: Language, least: int) -> tuple[int, int]:
        most = max(least, machine.most_ready(language)) if self._pool is None else self._pool
        return min(least, most), most

    def _configuration(self, node: machine.Interpreter | None) -> wire.Configure:
        limits = SessionLimits()
        return wire.Configure(
            instance="",
            prefixes=[self._interpreter.prefix, *([node.prefix] if node else [])],
            commands={"python": [], **({"node": [node.path, machine.NODE_GUEST]} if node else {})},
            files={machine.NODE_GUEST: machine.node_guest()},
            warm={language: self._bounds(language, least) for language, least in _WARM.items()},
            memory_bytes=limits.memory_mib * MIB,
            tasks=limits.pids,
            cpus=limits.cpus,
            disk_bytes=limits.disk_mib * MIB,
        )


def _to_run(number: int, spec: LaunchSpec) -> wire.Run:
    limits = spec.limits
    return wire.Run(
        id=number,
        language=spec.language,
        memory_bytes=limits.memory_mib * MIB,
        tasks=limits.pids,
        cpus=limits.cpus,
        disk_bytes=limits.disk_mib * MIB,
        wall_seconds=limits.wall_clock_seconds,
        cpu_seconds=limits.cpu_seconds,
    )
