"""Callers of a server that write down what they were told, so that it can be held against it later."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from enclave import Enclave
from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import EnclaveError, Unavailable
from enclave.contracts.frames import AuditFrame, StreamFrame
from enclave.contracts.identity import Credential
from enclave.contracts.logs import LogEntry
from enclave.contracts.sessions import Session
from enclave.sdk.session import FrameStream

SHORT = "print('hi')"
TALKS = (
    "import sys, time\nfor n in range(150):\n"
    " print('o%d' % n, end=' ', flush=True); print('e%d' % n, end=' ', file=sys.stderr, flush=True); time.sleep(0.01)"
)
FLOODS = "import sys\nfor n in range(400): print(str(n) * 300); print(str(n) * 100, file=sys.stderr)"
LONG = "import time\nprint('up', flush=True)\ntime.sleep(60)"
FILES = "import os, time\nos.mkdir('out')\nopen('out/a', 'w').write('kept')\ntime.sleep(0.05)"
NODE = "console.log('hi from node')"


@dataclass
class Followed:
    """What a follower was sent, and where it stood when it was cut off."""

    session_id: str
    frames: list[StreamFrame] = field(default_factory=list)
    place: str | None = None


@dataclass
class Read:
    """The pages of output that a caller read."""

    session_id: str
    entries: list[LogEntry] = field(default_factory=list)
    cursor: str | None = None


@dataclass
class Told:
    """All that callers were told."""

    sessions: dict[str, Session] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    followed: list[Followed] = field(default_factory=list)
    read: list[Read] = field(default_factory=list)
    refusals: list[EnclaveError] = field(default_factory=list)

    def events(self) -> list[AuditEvent]:
        return [frame.event for one in self.followed for frame in one.frames if isinstance(frame, AuditFrame)]


class Load:
    """Callers that go on until they are stopped, or the server is gone. They ask each thing once."""

    def __init__(self, credential: Credential, kinds: tuple[str, ...], seed: int) -> None:
        self.told = Told()
        self._credential = credential
        self._stopped = threading.Event()
        self._seeds = itertools.count(seed)
        acts: dict[str, Callable[[Enclave, random.Random], None]] = {
            "short": self._short,
            "talks": self._talks,
            "reads": self._reads,
            "long": self._long,
            "files": self._files,
            "node": self._node,
            "torn": self._torn,
        }
        self._threads = [threading.Thread(target=self._repeat, args=(acts[kind],), daemon=True) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def stop(self) -> Told:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a caller waits for an answer that does not come"
        return self.told

    def _repeat(self, act: Callable[[Enclave, random.Random], None]) -> None:
        chance = random.Random(next(self._seeds))
        with client(self._credential) as enclave:
            while not self._stopped.is_set():
                try:
                    act(enclave, chance)
                except EnclaveError as error:
                    self.told.refusals.append(error)
                    time.sleep(0.05)

    def _seen(self, session: Session) -> Session:
        self.told.sessions[session.id] = session
        return session

    def _short(self, enclave: Enclave, _: random.Random) -> None:
        self._seen(enclave.run(SHORT, wait=30).session)

    def _files(self, enclave: Enclave, _: random.Random) -> None:
        self._seen(enclave.run(FILES, wait=30).session)

    def _node(self, enclave: Enclave, _: random.Random) -> None:
        self._seen(enclave.run(NODE, language="node", wait=30).session)

    def _long(self, enclave: Enclave, chance: random.Random) -> None:
        self._seen(enclave.run(LONG).session)
        self._stopped.wait(chance.random())

    def _torn(self, enclave: Enclave, chance: random.Random) -> None:
        session = self._seen(enclave.run(LONG).session)
        self._stopped.wait(chance.random() / 5)
        self._seen(enclave.teardown(session.id))

    def _talks(self, enclave: Enclave, chance: random.Random) -> None:
        session = self._seen(enclave.run(chance.choice((TALKS, TALKS, FLOODS))).session)
        followed = Followed(session.id)
        self.told.followed.append(followed)
        follow(enclave, followed)

    def _reads(self, enclave: Enclave, _: random.Random) -> None:
        session = self._seen(enclave.run(TALKS).session)
        read = Read(session.id)
        self.told.read.append(read)
        while not self._stopped.is_set():
            read_on(enclave, read)
            if read.cursor is None:
                return
            time.sleep(0.02)


def client(credential: Credential) -> Enclave:
    """A client that asks once, and resumes nothing: it tells of every break."""
    enclave = Enclave(credential.base_url, api_key=credential.api_key)
    enclave._api = replace(enclave._api, retry=(), resume=())
    return enclave


def follow(enclave: Enclave, followed: Followed) -> None:
    """Follow a session from where a follower stands, without resuming by itself."""
    stream: FrameStream = enclave.stream(followed.session_id, after=followed.place)
    with stream as frames:
        for frame in frames:
            followed.frames.append(frame)
            followed.place = stream.cursor


def read_on(enclave: Enclave, read: Read) -> None:
    """Read one page further."""
    page = enclave.logs(read.session_id, read.cursor)
    read.entries += page.items
    read.cursor = page.next_cursor


def patiently(act: Callable[[], Session]) -> Session:
    """What a caller gets who asks again while a part is being replaced."""
    for _ in range(200):
        with suppress(Unavailable):
            return act()
        time.sleep(0.05)
    return act()
