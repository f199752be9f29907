"""One launcher with its live sandboxes: orders in, reports back to whoever waits, and a successor when it dies."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from enclave.backends.base import Collected, LaunchSpec, Pool, Sandbox, SandboxLost, Told, Violation, Workload
from enclave.backends.local import connection, machine, outbox
from enclave.backends.local.broker import Broker
from enclave.backends.local.connection import Connection, Report
from enclave.backends.local.gate import Gate
from enclave.backends.local.plan import MIB, Plan
from enclave.backends.local.workload import LocalWorkload
from enclave.contracts.errors import Unavailable
from enclave.contracts.sessions import KillReason
from enclave.egress.wire import Terms
from enclave.sandbox import init, wire
from enclave.sandbox.outbox import is_left

_RESTART_SECONDS: Final = (0.0, 0.2, 1.0, 5.0)

log = logging.getLogger(__name__)


class LocalSandbox:
    """A sandbox of this machine; it comes into being with its program."""

    def __init__(self, station: "Station", spec: LaunchSpec) -> None:
        self._station = station
        self._spec = spec
        self.number = next(station.numbers)
        self.workload = LocalWorkload(spec.limits.output_kib * 1024)
        self.terms = Terms(allow=spec.egress.allow, deny=spec.egress.deny, grants=spec.bindings)
        self.gate = Gate(station.broker, self.terms, self._attempted, self._lost)
        self._ending: Report | None = None
        self._closing: asyncio.Future[None] | None = None
        self.running: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping = False
        self.lost = False
        self.work = -1

    async def run(self, code: str | None) -> Workload:
        """Start the program. Raises Unavailable."""
        spec, self._spec = self._spec, replace(self._spec, files={})  # it may be long until nobody holds them any more
        environment = {
            **init.GUEST_ENVIRONMENT,
            **self._station.session_environment,
            "ENCLAVE_SESSION_ID": spec.session_id,
            **self.terms.environment(),
            **spec.env,
        }
        if self.terms.opens:
            await self._station.broker.ready()
        order = self._station.to_run(self.number, spec, door=self.terms.opens)
        self._station.order(order, _payload(code, environment, spec), self)
        del spec
        await self.running
        return self.workload

    async def collect(self, into: Path) -> Collected:
        """Copy what the program left under `out/`, once nothing of it can run."""
        await self.gone
        if self.lost or self.work < 0:
            # With a launcher that has died, the kernel may still be ending what it held.
            raise SandboxLost("the sandbox was lost before its files were taken")
        work, self.work = self.work, -1
        return await asyncio.to_thread(outbox.empty, work, into)

    @property
    def session_id(self) -> str:
        """Whose it is."""
        return self._spec.session_id

    @property
    def language(self) -> str:
        """What it runs."""
        return self._spec.language

    def open(self, listener: int, resolver: int, work: int, *door: int) -> None:
        """Take over what the launcher took of the sandbox (`isolate.Openings`)."""
        self.work = work
        self.gate.open(listener, resolver, *door)

    def end(self, report: Report) -> None:
        """Its program ended; that is told when everything that it attempted has been."""
        if self.gate.used:
            self._ending = report
        else:
            self._tell_end(report)

    def leave(self) -> None:
        """Nothing of it is left on the launcher's side."""
        self._leaving = asyncio.get_running_loop().create_task(self._leave())

    async def _leave(self) -> None:
        # First all that it attempted is told, then its end: who is told of the end listens no more. Its files are taken
        # when it is gone, which comes last, because until then a process of it could still change them.
        await self.gate.close()
        if self._ending is not None:
            self._tell_end(self._ending)
        if not self.workload.left_files:
            self._let_go(last=True)
        if self._closing is not None:
            await self._closing
        if not self.gone.done():
            self.gone.set_result(None)

    def _attempted(self, told: Told) -> None:
        self.workload.tell(told)
        if isinstance(told, Violation):
            self._station.stop(self.number, KillReason.SYSCALL_FORBIDDEN)

    def _lost(self, why: str) -> None:
        self.workload.lose(why)
        self._station.stop(self.number)

    async def teardown(self) -> None:
        """Stop whatever runs and wait until nothing is left."""
        self.stopping = True
        if self._station.stop(self.number):
            await self.gone
        if self._leaving is not None:
            # The launcher is through with it; what we hold of it is let go of.
            await asyncio.wait((self._leaving,))
        if self.work >= 0:
            work, self.work = self.work, -1
            await asyncio.to_thread(os.close, work)

    def _tell_end(self, report: Report) -> None:
        self.workload.end(report, left_files=self.work >= 0 and is_left(self.work))
        if not self.workload.left_files:
            self._let_go(last=report["reason"] is not None or self._ending is not None)

    def _let_go(self, *, last: bool) -> None:
        # Where nothing of the sandbox is left, as after a limit, its whole file system is freed by whoever closes this
        # last, and that may take long; else it is its last process that will.
        work, self.work = self.work, -1
        if work >= 0 and last:
            self._closing = asyncio.get_running_loop().run_in_executor(None, os.close, work)
        elif work >= 0:
            os.close(work)


class Station:
    """A launcher and those that follow it. One that `lasts` is replaced at once when it dies, else at its next use."""

    def __init__(self, plan: Plan, broker: Broker, *, lasts: bool) -> None:
        self._plan = plan
        self.broker = broker
        self._lasts = lasts
        self._instances: list[str] = []
        self._connection: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._live: dict[int, LocalSandbox] = {}
        self._ending: asyncio.Task[None] | None = None
        self.numbers = itertools.count(1)
        self.pools: dict[str, Pool] = {}

    @property
    def instance(self) -> str:
        """The name of the present launcher's directory among the cgroups."""
        return self._instances[-1]

    @property
    def pid(self) -> int:
        """The process of the present launcher. Raises Unavailable."""
        return self._standing().pid

    @property
    def stands(self) -> bool:
        """Whether there is a launcher that takes orders."""
        return self._connection is not None

    @property
    def session_environment(self) -> Mapping[str, str]:
        """What its sessions find in their environment beside what every session finds."""
        return self._plan.session_environment

    async def open(self) -> None:
        """Have a launcher stand. Raises Unavailable, saying why, if it cannot; many who ask at once share one try."""
        if self._connection is not None:
            return
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    async def ready(self) -> None:
        """Where a launcher has just died, have its successor stand. Raises Unavailable."""
        if self._connection is None and self._ending is not None and not self._ending.done():
            await self.open()

    async def close(self) -> None:
        """End every sandbox and the launcher, and remove what they used."""
        if self._ending is not None:
            self._ending.cancel()
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        held, self._connection = self._connection, None
        if held is not None:
            await held.close()
        self._lose_all("the platform is shutting down")
        machine.remove_instances(named=self._instances)

    async def settled(self) -> None:
        """Return when what follows the death of a launcher has been done."""
        if self._ending is not None:
            await self._ending

    def launch(self, spec: LaunchSpec) -> Sandbox:
        """A sandbox for the session; it is taken from the pool when its program is given. Raises Unavailable."""
        self._standing()
        return LocalSandbox(self, spec)

    def live(self) -> frozenset[str]:
        """The ids of the sessions that have a sandbox."""
        return frozenset(sandbox.session_id for sandbox in self._live.values())

    def to_run(self, number: int, spec: LaunchSpec, *, door: bool) -> wire.Run:
        """The order for a session. Raises ValueError for a source that is not among those the launcher knows."""
        limits = spec.limits
        sources = self._plan.order.sources
        return wire.Run(
            id=number,
            language=spec.language,
            memory_bytes=limits.memory_mib * MIB,
            tasks=limits.pids,
            cpus=limits.cpus,
            disk_bytes=limits.disk_mib * MIB,
            wall_seconds=limits.wall_clock_seconds,
            cpu_seconds=limits.cpu_seconds,
            door=door,
            source=None if spec.source is None else str(spec.source.tree.relative_to(str(sources))),
        )

    def order(self, order: wire.Run, payload: bytes, sandbox: LocalSandbox) -> None:
        """Have the launcher start a session. Raises Unavailable."""
        standing = self._standing()
        self._live[order.id] = sandbox
        try:
            standing.send(wire.encode(order), payload)
        except Unavailable:
            self._forget(order.id)
            raise

    def stop(self, number: int, reason: str | None = None) -> bool:
        """Have the launcher end a session, for a reason of its own doing; False when it has no sandbox."""
        if number not in self._live or self._connection is None:
            return False
        # A launcher that cannot take the order is dead, and then its end is reported for all.
        with contextlib.suppress(Unavailable):
            self._connection.send(wire.encode(wire.Kill(number, reason)))
        return True

    def _standing(self) -> Connection:
        if self._connection is None:
            raise Unavailable("the sandbox launcher is being restarted; retry shortly")
        return self._connection

    # -- reports ---------------------------------------------------------------------------------------------------

    def _on_report(self, report: Report, fds: list[int]) -> None:
        sandbox = self._live.get(report["id"])
        if sandbox is None:
            connection.close_all(fds)
            return
        match report["ev"]:
            case "running":
                self._count(sandbox.language, report)
                sandbox.workload.attach(*fds)
                sandbox.running.set_result(None)
            case "open":
                sandbox.open(*fds)
            case "refused":
                sandbox.running.set_exception(Unavailable(f"no sandbox could be made: {report['why']}"))
                self._forget(report["id"])
            case "exit" if report["code"] is None and report["reason"] is None and not sandbox.stopping:
                sandbox.workload.lose("the sandbox died before its program ended")
            case "exit":
                sandbox.end(report)
            case "gone":
                self._forget(report["id"])

    def _count(self, language: str, report: Report) -> None:
        held = self.pools.get(language, Pool(0, 0, 0))
        warm = int(report["warm"])
        self.pools[language] = Pool(report["left"], held.warm + warm, held.cold + 1 - warm)

    def _forget(self, number: int) -> None:
        if (sandbox := self._live.pop(number, None)) is not None:
            sandbox.leave()

    # -- the launcher ----------------------------------------------------------------------------------------------

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # seen here: whoever waits still gets it

    async def _connect(self) -> None:
        # A name of its own for each launcher: what one that was killed leaves must not be in the way of the next.
        self._instances.append(machine.instance_name())
        order = replace(self._plan.order, instance=self.instance)
        try:
            started = await connection.start(self._plan.program, wire.encode(order))
        except Unavailable as error:
            machine.remove_instances(named=self._instances)
            raise Unavailable(self._plan.refusal.format(why=error.detail)) from None
        started.listen(self._on_report, self._on_end)
        self._connection = started

    def _on_end(self) -> None:
        log.error("the sandbox launcher ended; its sessions are lost, and another one takes its place")
        dead, self._connection = self._connection, None
        self._lose_all("the sandbox launcher ended")
        self._ending = asyncio.get_running_loop().create_task(self._follow(dead, tuple(self._instances)))

    def _lose_all(self, why: str) -> None:
        for number, sandbox in list(self._live.items()):
            if not sandbox.running.done():
                sandbox.running.set_exception(Unavailable(why))
            sandbox.workload.lose(why)
            sandbox.lost = True
            self._forget(number)

    async def _follow(self, dead: Connection | None, instances: Sequence[str]) -> None:
        if dead is not None:
            await dead.close()
        if self._lasts:
            await self._start_again()
        await machine.sweep(instances)

    async def _start_again(self) -> None:
        for pause in (*_RESTART_SECONDS, *[_RESTART_SECONDS[-1]] * 1000):
            await asyncio.sleep(pause)
            try:
                await self.open()
            except Unavailable as error:
                log.error("%s", error)
            else:
                return


def _payload(code: str | None, environment: Mapping[str, str], spec: LaunchSpec) -> bytes:
    """What the guest is given: JSON on one line, and behind it the files' contents, one after the other."""
    sizes = [[path, len(content)] for path, content in spec.files.items()]
    source = spec.source
    mounted = {} if source is None else {"source": True, "entrypoint": source.entrypoint}
    head = {"code": code, "env": environment, **mounted, **({"files": sizes} if sizes else {})}
    return b"".join((json.dumps(head).encode(), b"\n", *spec.files.values()))
