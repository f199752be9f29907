"""Two backends without isolation, for tests: one that runs real processes, one whose programs the test plays itself."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Literal

from enclave.backends.base import Check, Collected, Exit, LaunchSpec, Output, Told, Workload
from enclave.contracts.errors import Unavailable
from enclave.contracts.policy import Guarantee, Language
from enclave.core.files import listed

_HARNESS = """
import json, os, sys, types
fd = int(sys.argv[1])
def result(value):
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(value).encode(), 0)
import builtins
builtins.enclave = types.SimpleNamespace(result=result)
exec(compile(sys.stdin.read(), "main.py", "exec"), {"__name__": "__main__"})
"""


class ProcessSandbox:
    """A bare Python process, and the workload in it."""

    def __init__(self, backend: "ProcessBackend", spec: LaunchSpec) -> None:
        self._backend = backend
        self._spec = spec
        self._process: asyncio.subprocess.Process | None = None
        self._value = os.memfd_create("value")
        self._began = time.monotonic()
        self._exit: asyncio.Task[Exit] | None = None

    async def run(self, code: str | None) -> Workload:
        command = (sys.executable, "-I", "-u", "-c", _HARNESS, str(self._value))
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=(self._value,), env=dict(self._spec.env)
        )
        assert self._process.stdin is not None
        self._process.stdin.write((code or "").encode())
        self._process.stdin.close()
        self._exit = asyncio.create_task(self._ended())
        return self

    async def output(self) -> AsyncIterator[Output]:
        queue: asyncio.Queue[Output | None] = asyncio.Queue()
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        readers = (
            asyncio.create_task(_pump(self._process.stdout, "stdout", queue)),
            asyncio.create_task(_pump(self._process.stderr, "stderr", queue)),
        )
        for _ in readers:
            while (output := await queue.get()) is not None:
                yield output

    async def wait(self) -> Exit:
        assert self._exit is not None
        return await asyncio.shield(self._exit)

    async def teardown(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        if self._exit is not None:
            await asyncio.shield(self._exit)
        if self._backend.sandboxes.pop(self._spec.session_id, None) is not None:
            os.close(self._value)

    async def _ended(self) -> Exit:
        assert self._process is not None
        code = await self._process.wait()
        seconds = time.monotonic() - self._began
        value = os.pread(self._value, 1 << 20, 0) or None
        return Exit(code=code if code >= 0 else None, value=value, duration_seconds=seconds)


async def _pump(
    reader: asyncio.StreamReader, stream: Literal["stdout", "stderr"], queue: asyncio.Queue[Output | None]
) -> None:
    while data := await reader.read(65536):
        queue.put_nowait(Output(stream, data))
    queue.put_nowait(None)


class ProcessBackend:
    """Runs a session's code in a bare process of this interpreter."""

    name = "process"
    guarantees = frozenset(Guarantee)

    def __init__(self, **_: object) -> None:
        self.sandboxes: dict[str, ProcessSandbox] = {}

    def probe(self) -> tuple[Check, ...]:
        return (Check("process", True, "no isolation at all"),)

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        for sandbox in tuple(self.sandboxes.values()):
            await sandbox.teardown()

    def healthy(self) -> bool:
        return True

    def templates(self) -> Mapping[str, Language]:
        return {}

    async def launch(self, spec: LaunchSpec) -> ProcessSandbox:
        sandbox = self.sandboxes[spec.session_id] = ProcessSandbox(self, spec)
        return sandbox

    async def live(self) -> frozenset[str]:
        return frozenset(self.sandboxes)


class Puppet:
    """A sandbox and workload in which nothing happens but what the test says."""

    def __init__(self, backend: "PuppetBackend", spec: LaunchSpec) -> None:
        self.spec = spec
        self.code: str | None = None
        self.gone = False
        self.left: dict[str, bytes] = {}
        self.refusal: Exception | None = None
        self._backend = backend
        self._queue: asyncio.Queue[Told | None] = asyncio.Queue()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def print(self, data: bytes, stream: Literal["stdout", "stderr"] = "stdout") -> None:
        self.tell(Output(stream, data))

    def tell(self, told: Told) -> None:
        self._queue.put_nowait(told)

    def end(self, how: Exit | Exception | None = None) -> None:
        if self._exit.done():
            return
        self._queue.put_nowait(None)
        if isinstance(how, Exception):
            self._exit.set_exception(how)
            self._exit.exception()
        else:
            self._exit.set_result(how or Exit(code=0))

    async def collect(self, into: Path) -> Collected:
        for place, content in enumerate(self.left.values()):
            (into / str(place)).write_bytes(content)
        if self.refusal is not None:
            raise self.refusal
        return Collected(listed(self.left))

    async def run(self, code: str | None) -> Workload:
        self.code = code
        self._backend.play(self)
        return self

    async def output(self) -> AsyncIterator[Told]:
        while (output := await self._queue.get()) is not None:
            yield output

    async def wait(self) -> Exit:
        return await self._exit

    async def teardown(self) -> None:
        self.end(Exit(code=None))
        self.gone = True
        self._backend.puppets.pop(self.spec.session_id, None)


def _nothing(_: Puppet) -> None:
    pass


class PuppetBackend:
    """Puppets; `play` is called with each as its program starts."""

    name = "puppet"

    def __init__(self, play: Callable[[Puppet], None] = _nothing) -> None:
        self.play = play
        self.puppets: dict[str, Puppet] = {}
        self.all: list[Puppet] = []
        self.guarantees = frozenset(Guarantee)
        self.refusal: Exception | None = None
        self.offered: dict[str, Language] = {}

    def probe(self) -> tuple[Check, ...]:
        return ()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        for puppet in tuple(self.puppets.values()):
            await puppet.teardown()

    def healthy(self) -> bool:
        return self.refusal is None

    def templates(self) -> Mapping[str, Language]:
        return self.offered

    async def launch(self, spec: LaunchSpec) -> Puppet:
        if self.refusal is not None:
            raise self.refusal
        puppet = self.puppets[spec.session_id] = Puppet(self, spec)
        self.all.append(puppet)
        return puppet

    async def live(self) -> frozenset[str]:
        return frozenset(self.puppets)


def refuse_to_launch(backend: PuppetBackend) -> None:
    """Make every launch fail."""
    backend.refusal = Unavailable("no sandbox is to be had")
