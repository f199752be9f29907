"""The launcher's loop: it keeps sandboxes ready, gives them programs, and ends them when a limit is reached.

One thread, because it forks. It holds no secret and no tenant's data, and has left the host's root before the first
sandbox exists. When the control plane is gone, so is everything here.
"""

import heapq
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from enclave.sandbox import cgroup, init, slot, wire
from enclave.sandbox.pool import Pool
from enclave.sandbox.slot import Shape, Site, Slot

_CPU_GRAIN_SECONDS: Final = 0.02
_LOOK_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 0.002
_BUILD_PAUSE_SECONDS: Final = 1.0
INIT_TASKS: Final = 1
"""How many tasks a sandbox has beside its program's own."""
_FEW_TIMERS: Final = 64
_QUIET_SECONDS: Final = 0.005


class Launcher:
    """All sandboxes of one control plane."""

    def __init__(self, control: socket.socket, site: Site, pools: Mapping[str, Pool]) -> None:
        self._control = control
        self._site = site
        self._pools = pools
        self._numbers = itertools.count(1)
        self._by_pid: dict[int, Slot] = {}
        self._by_session: dict[int, Slot] = {}
        self._timers: list[tuple[float, int, Slot, Callable[[], None]]] = []
        self._order = itertools.count()
        self._build_after = 0.0
        self._started_at = 0.0
        self._poll = select.epoll()
        self._on: dict[int, Callable[[], None]] = {}
        self._alive = True

    def run(self) -> None:
        """Serve until the control plane goes away; then nothing is left."""
        self._watch(self._control.fileno(), self._take_message)
        self._watch(self._wakeup(), self._reap)
        wire.send_report(self._control, {"ev": "up"})
        while self._alive:
            events = self._poll.poll(self._timeout())
            for fd, _ in events:
                if (react := self._on.get(fd)) is not None:
                    react()
            self._fire_timers()
            self._review()
            if not events:
                self._refill()
        self.end_all()

    def _wakeup(self) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._child_signals = reader
        return reader

    def _watch(self, fd: int, react: Callable[[], None], mask: int = select.EPOLLIN) -> None:
        self._on[fd] = react
        self._poll.register(fd, mask)

    def _unwatch(self, fd: int) -> None:
        if self._on.pop(fd, None) is not None:
            self._poll.unregister(fd)

    # -- time ------------------------------------------------------------------------------------------------------

    def _timeout(self) -> float:
        moments = [self._timers[0][0]] if self._timers else []
        moments += [at for pool in self._pools.values() if (at := pool.review_at) is not None]
        if (pool := self._wanting()) is not None:
            moments.append(self._refill_at(pool))
        return max(0.0, min(moments) - time.monotonic()) if moments else -1

    def _at(self, when: float, about: Slot, act: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), about, act))
        if len(self._timers) > 4 * len(self._by_pid) + _FEW_TIMERS:
            self._timers = [timer for timer in self._timers if not timer[2].removed]
            heapq.heapify(self._timers)

    def _fire_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[3]()

    # -- the pool --------------------------------------------------------------------------------------------------

    def _wanting(self) -> Pool | None:
        return next((pool for pool in self._pools.values() if pool.wanting), None)

    def _refill_at(self, pool: Pool) -> float:
        # A build competes with a program that has just been started: it waits a moment, unless few are left.
        return self._build_after if pool.few else max(self._build_after, self._started_at + _QUIET_SECONDS)

    def _refill(self) -> None:
        pool = self._wanting()
        if pool is None or time.monotonic() < self._refill_at(pool):
            return
        try:
            self._build(pool.shape)
        except OSError as error:
            self._build_failed(str(error))
        else:
            pool.building += 1

    def _review(self) -> None:
        now = time.monotonic()
        for pool in self._pools.values():
            for surplus in pool.review(now) if pool.review_at is not None and pool.review_at <= now else ():
                surplus.kill()

    def _build_failed(self, why: str) -> None:
        print(f"a sandbox could not be built: {why}", file=sys.stderr, flush=True)
        self._build_after = time.monotonic() + _BUILD_PAUSE_SECONDS

    def _build(self, shape: Shape) -> Slot:
        made = slot.build(self._site, shape, next(self._numbers))
        self._by_pid[made.pid] = made
        self._watch(made.ours.status, lambda: self._take_status(made))
        return made

    # -- messages --------------------------------------------------------------------------------------------------

    def _take_message(self) -> None:
        data, fds = wire.receive(self._control, 1)
        if not data:
            self._alive = False
            return
        match wire.decode(data):
            case wire.Run() as order if fds:
                self._start(order, fds[0])
                os.close(fds[0])
            case wire.Run() as order:
                self._refuse(order, OSError("the launcher is out of descriptors"))
            case wire.Kill(id=session, reason=reason):
                self._stop(session, reason)
            case wire.Configure():
                self._alive = False  # a second one is a mistake of ours: end rather than guess

    def _start(self, order: wire.Run, payload: int) -> None:
        try:
            chosen = self._claim(order)
        except (OSError, KeyError) as error:
            self._refuse(order, error)
            return
        self._by_session[order.id] = chosen
        chosen.door = order.door
        self._started_at = time.monotonic()
        try:
            fits = chosen.group.bound(cgroup.Bounds(order.memory_bytes, order.tasks + INIT_TASKS, order.cpus))
            chosen.begin(order.id, payload if fits else None)
        except OSError as error:
            chosen.session, chosen.reported = order.id, True
            chosen.kill()
            self._refuse(order, error)
            return
        left = len(self._pools[order.language])
        self._give("running", chosen, chosen.ours.give_away(), warm=chosen.ready, left=left)
        if chosen.ready:
            self._open(chosen)
        self._arm(chosen)
        self._limit_time(chosen, order)
        if not fits:
            self._exceed(chosen, "memory_exceeded")

    def _give(self, event: str, live: Slot, fds: Sequence[int], **more: object) -> None:
        wire.send_report(self._control, {"ev": event, "id": live.session, **more}, fds)
        for fd in fds:
            os.close(fd)

    def _open(self, live: Slot) -> None:
        try:
            openings = live.openings(self._site)
        except OSError:
            live.kill()  # most likely it is dead already; what it asks for, nobody could answer
            return
        self._give("open", live, openings)

    def _refuse(self, order: wire.Run, error: Exception) -> None:
        wire.send_report(self._control, {"ev": "refused", "id": order.id, "why": str(error)})

    def _claim(self, order: wire.Run) -> Slot:
        pool = self._pools[order.language]
        shape = pool.shape
        asked = Shape(shape.language, order.disk_bytes, shape.bounds, order.source)
        if asked == shape and (ready := pool.take(time.monotonic())) is not None:
            return ready
        return self._build(asked)

    def _stop(self, session: int, reason: str | None) -> None:
        if (found := self._by_session.get(session)) is None:
            return
        if reason is not None:
            self._exceed(found, reason)
        found.kill()

    # -- limits ----------------------------------------------------------------------------------------------------

    def _arm(self, live: Slot) -> None:
        """Listen for the kernel's word that a bound was run into; once armed, look whether it already was."""
        if live.alarms:
            return
        (memory, memory_event), (tasks, tasks_event) = live.group.memory_alarm(), live.group.tasks_alarm()
        live.alarms = [memory, tasks]
        self._watch(memory, lambda: self._exceed(live, "memory_exceeded"), memory_event)
        self._watch(tasks, lambda: self._exceed(live, "pids_exceeded"), tasks_event)
        if live.session is not None and (reason := _bound_reached(live)):
            self._exceed(live, reason)

    def _exceed(self, live: Slot, reason: str) -> None:
        for alarm in live.alarms:
            self._unwatch(alarm)
        if live.kill_reason is None and not live.reported:
            live.kill_reason = _bound_reached(live) or reason
        live.kill()

    def _limit_time(self, live: Slot, order: wire.Run) -> None:
        live.cpu_budget = order.cpu_seconds
        self._at(live.started_at + _LOOK_SECONDS, live, lambda: self._look_at_tasks(live))
        self._at(live.started_at + order.wall_seconds, live, lambda: self._on_deadline(live))
        first = max(_CPU_GRAIN_SECONDS, order.cpu_seconds / order.cpus)
        self._at(live.started_at + first, live, self._cpu_check(live, order.cpus))

    def _on_deadline(self, live: Slot) -> None:
        if not live.reported and not live.reaped:
            self._exceed(live, "wall_clock_exceeded")

    def _look_at_tasks(self, live: Slot) -> None:
        """Look whether the bound on tasks was run into: on v1 the kernel does not say so by itself."""
        if live.reported or live.reaped:
            return
        if live.group.out_of_tasks():
            self._exceed(live, "pids_exceeded")
        else:
            self._at(time.monotonic() + _LOOK_SECONDS, live, lambda: self._look_at_tasks(live))

    def _cpu_check(self, live: Slot, cpus: float) -> Callable[[], None]:
        def look() -> None:
            if live.reported or live.reaped:
                return
            left = live.cpu_budget - (live.group.cpu_seconds() - live.cpu_before)
            if left <= 0:
                self._exceed(live, "cpu_exceeded")
            else:
                self._at(time.monotonic() + max(_CPU_GRAIN_SECONDS, left / cpus), live, look)

        return look

    # -- ends ------------------------------------------------------------------------------------------------------

    def _take_status(self, found: Slot) -> None:
        try:
            status = init.read_status(os.read(found.ours.status, 4096))
        except BlockingIOError:
            return  # its other end is held by someone who is not of the sandbox any more, or was emptied from inside
        if status.ready and not found.ready:
            self._now_ready(found)
            if not status.over:
                return
        if status.ended is not None:
            self._report_exit(found, status.ended)
        elif status.failure is not None and not found.ready:
            self._build_failed(status.failure)
        self._unwatch(found.ours.status)
        found.kill()

    def _now_ready(self, found: Slot) -> None:
        found.ready = True
        if found.session is None:
            self._pools[found.shape.language].built(found)
        else:
            self._open(found)

    def _report_exit(self, ended: Slot, wait_status: int | None) -> None:
        if ended.session is None or ended.reported:
            return
        ended.reported = True
        seconds = time.monotonic() - ended.started_at
        account = ended.group.account()
        reason = ended.kill_reason or _bound_reached(ended)
        code = _exit_code(wait_status) if wait_status is not None and reason is None else None
        report = {
            "ev": "exit",
            "id": ended.session,
            "code": code,
            "reason": reason,
            "seconds": seconds,
            "cpu": account.cpu_seconds - ended.cpu_before,
            "memory": account.peak_memory_bytes,
            "tasks": account.peak_tasks,
        }
        wire.send_report(self._control, report)

    def _reap(self) -> None:
        os.read(self._child_signals, 4096)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._site.mold.pid:
                self._alive = False
            if (dead := self._by_pid.pop(pid, None)) is not None:
                self._bury(dead)

    def _bury(self, dead: Slot) -> None:
        # Waiting for the first process of a namespace ends when all others of it are gone (pid_namespaces(7)).
        dead.reaped = True
        self._drain_status(dead)
        self._report_exit(dead, None)
        if dead.session is None:
            self._forget_warm(dead)
        for fd in (dead.ours.status, *dead.alarms):
            self._unwatch(fd)
        dead.close()
        _collect_lost_sockets()
        self._remove(dead)

    def _drain_status(self, dead: Slot) -> None:
        if dead.ours.status in self._on:
            self._take_status(dead)

    def _forget_warm(self, dead: Slot) -> None:
        self._pools[dead.shape.language].lost(dead)
        if not dead.ready:
            self._build_after = time.monotonic() + _BUILD_PAUSE_SECONDS

    def _remove(self, dead: Slot) -> None:
        if not dead.group.remove():
            self._at(time.monotonic() + _RETRY_SECONDS, dead, lambda: self._remove(dead))
            return
        dead.removed = True
        if dead.session is not None:
            del self._by_session[dead.session]
            wire.send_report(self._control, {"ev": "gone", "id": dead.session})

    def end_all(self) -> None:
        """End every sandbox and remove what they used."""
        for left in self._by_pid.values():
            left.kill()
        for left in self._by_pid.values():
            os.waitpid(left.pid, 0)
            while not left.group.remove():
                time.sleep(_RETRY_SECONDS)
        self._site.hierarchy.remove()


def _collect_lost_sockets() -> None:
    """Have the kernel free what sockets of the dead passed to one another and nobody took (unix(7), SCM_RIGHTS).

    It looks for such cycles only when a socket is closed while some are in flight; until then what they hold, memory
    files of any size among it, stays on the host's account.
    """
    for end in socket.socketpair():
        end.close()


def _bound_reached(live: Slot) -> str | None:
    account = live.group.account()
    if account.out_of_tasks:
        return "pids_exceeded"
    return "memory_exceeded" if account.out_of_memory else None


def _exit_code(wait_status: int) -> int:
    """The exit code, or the negated signal; the bits may be a guest's own invention, so they are only masked."""
    signal_number = wait_status & 0x7F
    return -signal_number if signal_number else wait_status >> 8 & 0xFF
