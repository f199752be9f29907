"""The life of one session in this process, from its acceptance until nothing of its sandbox is left.

The program is started while its creation is still being written: nothing is shown before it is durable, so nobody can
tell, and the two waits become one.
"""

import asyncio
import codecs
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from enclave.backends.base import (
    Collected,
    Collecting,
    Exit,
    LaunchSpec,
    Mounted,
    Output,
    Sandbox,
    SandboxLost,
    Workload,
)
from enclave.contracts.errors import Unavailable
from enclave.contracts.files import Omission
from enclave.contracts.sessions import Session
from enclave.core.files import listed
from enclave.core.session import Change, Outcome, Program, Started, TornDown, created
from enclave.core.trace import SESSION_ID
from enclave.orchestrator.attempt import event
from enclave.orchestrator.clone import Clone
from enclave.orchestrator.ending import Loss, cut_short, finished, lost
from enclave.orchestrator.record import PLATFORM, Ports, Record
from enclave.orchestrator.transcript import Live
from enclave.source.base import FetchFailed
from enclave.store.base import Channel

_log = logging.getLogger(__name__)

_SHUT_DOWN = Loss("platform_restart", "the platform was shut down while the session ran")
_UNRECORDED = Loss("sandbox_lost", "the session could not be recorded")
_UNKEPT = Collected(omitted={Omission.NOT_KEPT: 1})
_BUG = Loss("sandbox_lost", "the platform made a mistake; the server's log has the details")


@dataclass(frozen=True, slots=True)
class Stop:
    """A wish to end a session before its program does: torn down by an actor, or lost."""

    actor: str | None = None
    loss: Loss = _SHUT_DOWN


class Run:
    """One session that is alive."""

    def __init__(self, ports: Ports, session: Session, program: Program, observe: Callable[[Change], None]) -> None:
        self._ports = ports
        self._clone = Clone(ports.sources, session, ports.clock, program.fetching)
        self._stop: Stop | None = None
        self._sandbox: Sandbox | None = None
        self._decoders: dict[Channel, codecs.IncrementalDecoder] = {}
        self._halt: asyncio.Task[None] | None = None
        self._program: Program | None = program
        self._kept = False
        self._hurry = asyncio.Event()
        self._printed = False
        change = created(session, program.code, listed(program.files), program.claim, program.callback)
        self.record = Record(ports, change, self._refused, observe)
        self.task = asyncio.get_running_loop().create_task(self._live())

    async def stop(self, wish: Stop) -> None:
        """Stop the program if it still runs; returns when nothing of the session is left to do."""
        self._stop = self._stop or wish
        self._hurry.set()
        self._clone.cancel()
        if self._sandbox is not None:
            await self._sandbox.teardown()
        await asyncio.wait((self.task,))

    async def _live(self) -> None:
        SESSION_ID.set(self.record.session.id)
        try:
            outcome = await self._outcome()
            await self._conclude(outcome)
            await self._persist(outcome)
        except Exception as error:  # noqa: BLE001  whatever happened, the session must end
            _log.error("session %s: %r", self.record.session.id, error, exc_info=error)
        if not self.record.settled:
            await self._salvage()
        self.record.close()
        # Two turns of the loop: whoever waits for the session writes the answer before the teardown takes the time.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await self._reclaim()
        self._transcript.keep_order()
        await self._discard()

    async def _conclude(self, outcome: Outcome) -> None:
        torn_down_by = self._stop.actor if self._stop is not None and isinstance(outcome, TornDown) else None
        self.record.advance(outcome, torn_down_by or PLATFORM)
        await self.record.written()

    async def _persist(self, outcome: Outcome) -> None:
        """Write the end again where it could not be, after pauses: a disk that is full may not be so for long."""
        for pause in self._ports.patience:
            if self.record.settled or self._hurry.is_set() or not self.record.may_be_written_yet:
                return
            if not self.record.roll_back():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            await self._conclude(outcome)

    async def _outcome(self) -> Outcome:
        try:
            await self._clone.make(self.record.note)
            workload = await self._launch()
        except FetchFailed as error:
            return await self._cut(Loss("clone_failed", f"the source could not be fetched: {error.detail}"))
        except Unavailable as error:
            return await self._cut(Loss("launch_failed", error.detail))
        if workload is None:
            return await self._cut(_SHUT_DOWN)
        self.record.advance(Started(self._ports.backend.name))
        try:
            end = await self._collect(workload)
            return await self._ended(end, await self._keep(end))
        except SandboxLost as error:
            return await self._cut(Loss("sandbox_lost", str(error) or "the sandbox vanished"))

    async def _launch(self) -> Workload | None:
        # Nobody here holds a program, with all its files and grants, for as long as it runs.
        program, self._program = self._program, None
        if program is None or self._stop is not None:
            return None
        self._sandbox = await self._ports.backend.launch(_spec(self.record.session, program, self._clone.mounted))
        return await self._sandbox.run(program.code) if self._stop is None else None

    async def _collect(self, workload: Workload) -> Exit:
        async for told in workload.output():
            if isinstance(told, Output):
                self._print(told.stream, told.data)
            else:
                self.record.note(event(self.record.session, told, self._ports.clock()))
        for channel in self._decoders:
            self._print(channel, b"", final=True)
        return await workload.wait()

    async def _keep(self, end: Exit) -> Collected:
        """Keep what the program left, if it left anything and was not stopped; whatever happens, its end stands."""
        sandbox = self._sandbox
        if not (end.left_files and _is_its_own(end) and isinstance(sandbox, Collecting)):
            return Collected()
        self._kept = True
        try:
            return await self._ports.files.keep(self.record.session, sandbox.collect)
        except (OSError, SandboxLost) as error:
            _log.error("session %s: its files are not kept: %r", self.record.session.id, error)
            return _UNKEPT

    def _print(self, channel: Channel, data: bytes, *, final: bool = False) -> None:
        decoder = self._decoders.get(channel)
        if decoder is None:
            decoder = self._decoders[channel] = codecs.getincrementaldecoder("utf-8")("replace")
        if text := decoder.decode(data, final):
            now = self._ports.clock()
            if not self._printed:
                self._printed = True
                session = self.record.session
                self._ports.observer.printed(session, max(0.0, (now - session.created_at).total_seconds()))
            self._transcript.write(channel, text, now)

    async def _ended(self, end: Exit, left: Collected) -> Outcome:
        if _is_its_own(end):
            return finished(end, await self._transcript.finish(), left)
        return await self._cut(Loss("sandbox_lost", "the sandbox was stopped from outside"), end)

    async def _cut(self, loss: Loss, end: Exit | None = None) -> Outcome:
        left = end or Exit(code=None)
        if self._stop is None:
            return await self._lost(loss, left)
        if self._stop.actor is None:
            return await self._lost(self._stop.loss, left)
        return TornDown(cut_short(left, await self._transcript.finish()))

    async def _lost(self, loss: Loss, end: Exit) -> Outcome:
        result = cut_short(end, await self._transcript.finish(), loss.detail)
        return lost(self.record.session, loss, self._ports.clock(), result)

    @property
    def _transcript(self) -> Live:
        return self.record.stream.transcript

    def _refused(self) -> None:
        self._stop = self._stop or Stop(loss=_UNRECORDED)
        self._clone.cancel()
        self._halt = asyncio.get_running_loop().create_task(self._reclaim())

    async def _salvage(self) -> None:
        """Bring the session to its end from where it durably is, whatever happened."""
        try:
            await self.record.written()
            if self.record.roll_back():
                await self._conclude(await self._cut(_BUG))
        except Exception as error:  # noqa: BLE001  there is nothing more to be tried
            _log.error("session %s cannot be settled: %r", self.record.session.id, error, exc_info=error)
        if not self.record.settled:
            self.record.give_up()

    async def _reclaim(self) -> None:
        try:
            if self._sandbox is not None:
                await self._sandbox.teardown()
            await self._clone.release()
        except Exception as error:  # noqa: BLE001  the session is over; the backend's close tries again
            _log.error("session %s: it is not all torn down: %r", self.record.session.id, error, exc_info=error)

    async def _discard(self) -> None:
        """Remove what nothing tells of, because it could not be written: files, and the journal of no session."""
        shown = self.record.shown
        try:
            if self._kept and (shown is None or shown.result is None or not shown.result.files):
                await self._ports.files.remove(self.record.session.id)
            if shown is None:
                await self._ports.journals.remove(self.record.session.id)
        except (OSError, Unavailable) as error:
            _log.error("session %s: not all it left is removed: %r", self.record.session.id, error)


def _is_its_own(end: Exit) -> bool:
    """Whether a program ended by itself or by a limit, and was not stopped from outside."""
    return end.code is not None or end.kill_reason is not None


def _spec(session: Session, program: Program, source: Mounted | None) -> LaunchSpec:
    return LaunchSpec(
        session_id=session.id,
        language=session.language,
        limits=session.limits,
        egress=session.egress,
        template=session.template,
        source=source,
        env={"ENCLAVE_SESSION_ID": session.id},
        bindings=program.bindings,
        files=program.files,
    )
