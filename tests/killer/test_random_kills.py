"""Parts of a server, or all of it, are killed at random moments under load; then everything is compared.

`ENCLAVE_KILLS` says how many kills (12), `ENCLAVE_KILL_SEED` where chance begins.
"""

import functools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from enclave import Enclave
from enclave.backends.local import machine
from enclave.contracts.audit import AuditEvent
from enclave.contracts.frames import AuditFrame, EndFrame, StderrFrame, StdoutFrame, StreamFrame
from enclave.contracts.identity import Credential
from enclave.contracts.sessions import Phase
from enclave.core.audit import verify
from tests.killer.family import Family, Process, cgroups, family, living, mounts, vanish
from tests.killer.load import Followed, Load, Read, Told, client, follow, patiently, read_on

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("ENCLAVE_KILLS", "12"))
SEED = int(os.environ.get("ENCLAVE_KILL_SEED", "1"))
VICTIMS = ("server", "server", "tree", "tree", "launcher", "mold", "broker")
KINDS = ("short", "talks", "talks", "reads", "long", "files", "torn")
TERMINAL = {Phase.SUCCEEDED, Phase.FAILED, Phase.KILLED, Phase.TORN_DOWN}


@dataclass
class Server:
    """A server in a process of its own."""

    child: "subprocess.Popen[bytes]"
    credential: Credential

    @property
    def family(self) -> Family:
        return family(self.child.pid)


@contextmanager
def served(home: Path) -> Iterator[Server]:
    command = (sys.executable, "-m", "enclave.serve", "--home", str(home))
    with (home.parent / "server.log").open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line, (home.parent / "server.log").read_text()[-2000:]
        yield Server(child, Credential.model_validate_json(line))
    finally:
        child.kill()
        child.communicate()


def victims(of: Family, kind: str, chance: random.Random) -> Sequence[Process]:
    """Whom to kill, in the order in which they are."""
    if kind == "tree":
        return chance.sample(of.all, len(of.all))
    chosen = {"server": (of.server,), "launcher": of.launcher, "mold": of.mold, "broker": of.broker}[kind]
    return chance.sample(chosen, 1) if chosen else ()


def test_whatever_is_killed_nothing_is_lost_and_nothing_is_left(tmp_path: Path) -> None:
    chance, home = random.Random(SEED), tmp_path / "home"
    kinds = (*KINDS, "node") if machine.node() is not None else KINDS
    held, checks = Held(home), 0
    deaths = [chance.choice(VICTIMS) for _ in range(KILLS)]
    while deaths:
        with served(home) as server:
            held.examine(server)
            checks += 1
            load = Load(server.credential, kinds, chance.randrange(1 << 30))
            gone = server.family
            while deaths:
                kind = deaths.pop()
                threading.Event().wait(chance.uniform(0.05, 1.5))
                gone = server.family
                for victim in victims(gone, kind, chance):
                    victim.kill()
                if kind in ("server", "tree"):
                    break
                runs_again(server)
            server.child.kill()
            server.child.wait()
            held.take(load.stop())
        vanish(functools.partial(living, gone))
        held.gone.append(gone)
        assert mounts(home) == []
    with served(home) as server:
        held.examine(server)
    print(f"{KILLS} kills, {checks} restarts, {held.counted} sessions, {held.resumed} streams and logs resumed")


def runs_again(server: Server) -> None:
    """New sessions work at once, whatever of the backend died."""
    with Enclave(server.credential.base_url, api_key=server.credential.api_key) as enclave:
        handle = patiently(lambda: succeeded(enclave))
        assert handle.result is not None
        assert handle.result.stdout == "hi\n"


def succeeded(enclave: Enclave):  # type: ignore[no-untyped-def]
    from enclave.contracts.errors import Unavailable

    session = enclave.run("print('hi')", wait=30).session
    if session.phase is not Phase.SUCCEEDED:
        raise Unavailable(session.result.error if session.result is not None else None)
    return session


class Held:
    """What callers of servers that are gone were told, to be held against what the next one says."""

    def __init__(self, home: Path) -> None:
        self.gone: list[Family] = []
        self.counted = 0
        self.resumed = 0
        self._home = home
        self._told: list[Told] = []
        self._events: dict[int, AuditEvent] = {}

    def take(self, told: Told) -> None:
        self._told.append(told)
        self._events |= {event.seq: event for event in told.events()}
        self.counted += len(told.sessions)

    def examine(self, server: Server) -> None:
        """Hold everything against a server that has just been started."""
        with client(server.credential) as enclave:
            chain = list(enclave.org_audit()) if self._told else []
            self._trail(chain)
            for told in self._told:
                self._sessions(enclave, told, chain)
                for followed in told.followed:
                    self._stream(enclave, followed)
                for read in told.read:
                    self._log(enclave, read)
            assert [one.id for one in enclave.list(phase=Phase.RUNNING)] == []
            assert [one.id for one in enclave.list(phase=Phase.PENDING)] == []
        self._told.clear()
        vanish(lambda: [path for gone in self.gone for path in cgroups(gone.server.pid)])
        vanish(lambda: self._strays(chain))
        self.gone.clear()

    def _trail(self, chain: Sequence[AuditEvent]) -> None:
        """Every entry that anybody was shown is in the chain, and the chain holds."""
        assert verify(chain) is None
        placed = {event.seq: event for event in chain}
        assert {seq: event for seq, event in self._events.items() if placed.get(seq) != event} == {}

    def _sessions(self, enclave: Enclave, told: Told, chain: Sequence[AuditEvent]) -> None:
        """Every session that was acknowledged is over, as its trail says, and as was said of it before."""
        trails: dict[str, list[str]] = {}
        for event in chain:
            if event.session_id is not None:
                trails.setdefault(event.session_id, []).append(event.type)
        for seen in told.sessions.values():
            now = enclave.get(seen.id)
            assert now.phase in TERMINAL
            assert now.result is not None or now.phase is Phase.TORN_DOWN
            assert trails[seen.id][0] == "session_created"
            assert trails[seen.id][-1] in ("result_collected", "session_failed", "session_torn_down"), trails[seen.id]
            if seen.phase in TERMINAL and now.phase is not Phase.TORN_DOWN:
                assert now == seen

    def _stream(self, enclave: Enclave, followed: Followed) -> None:
        """Resumed where it was cut off, a stream has neither a gap nor a repeat."""
        before = len(followed.frames)
        if before and isinstance(followed.frames[-1], EndFrame):
            return
        follow(enclave, followed)
        fresh = Followed(followed.session_id)
        follow(enclave, fresh)
        assert shape(followed.frames) == shape(fresh.frames), (followed.session_id, before)
        self.resumed += 1

    def _log(self, enclave: Enclave, read: Read) -> None:
        """Read on where it was cut off, a log has all that was printed, once."""
        if read.cursor is not None or not read.entries:
            read_on(enclave, read)
            while read.cursor is not None:
                read_on(enclave, read)
            self.resumed += 1
        result = enclave.get(read.session_id).result
        assert result is not None
        for channel, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            assert "".join(entry.text for entry in read.entries if entry.channel == channel) == text

    def _strays(self, chain: Sequence[AuditEvent]) -> list[str]:
        """Files of the home that belong to no session."""
        known = {event.session_id for event in chain}
        torn = {event.session_id for event in chain if event.type == "session_torn_down"}
        kept = [*(self._home / "files").iterdir(), *(self._home / "journals").iterdir()]
        strays = [str(path) for path in kept if path.name not in known or path.name in torn]
        return strays + [str(path) for path in (self._home / "sources").iterdir()]


def shape(frames: Sequence[StreamFrame]) -> tuple[list[int], str, str, bool]:
    """What a stream told, however it was cut into pieces."""
    return (
        [frame.event.seq for frame in frames if isinstance(frame, AuditFrame)],
        "".join(frame.chunk for frame in frames if isinstance(frame, StdoutFrame)),
        "".join(frame.chunk for frame in frames if isinstance(frame, StderrFrame)),
        isinstance(frames[-1], EndFrame),
    )
