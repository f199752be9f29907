"""A PostgreSQL server of the tests' own: made in a temporary directory, reached by a socket in it, gone afterwards."""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Final

import asyncpg

_PR_SET_PDEATHSIG: Final = 1
_START_SECONDS: Final = 30
_USER: Final = "enclave"


def binaries() -> Path | None:
    """Where the newest server's programs are; Debian does not put them in the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    candidates = [*([Path(on_path)] if on_path else []), *found]
    return candidates[-1].resolve().parent if candidates else None


class Server:
    """One server; a quick one outlives its own crash, but would not outlive a loss of power.

    PostgreSQL refuses to run as root: as root it is given to a user that can do nothing.
    """

    def __init__(self, programs: Path, *, quick: bool = True) -> None:
        self._programs = programs
        self._quick = quick
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="enclave-postgres-"))
        self._data = self.directory / "data"
        self._who = _nobody() if os.geteuid() == 0 else {}
        if self._who:
            os.chown(self.directory, self._who["user"], self._who["group"])
        command = (programs / "initdb", "-D", self._data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        subprocess.run(
            (*command, "--locale=C"), check=True, timeout=60, stdout=subprocess.DEVNULL, cwd="/", **self._who
        )

    def start(self) -> None:
        """Start, and return when it answers."""
        command = (self._programs / "postgres", "-D", self._data, "-k", self.directory, "-c", "listen_addresses=")
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (*command, "-c", "max_connections=100", *(["-c", "fsync=off"] if self._quick else [])),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
                **self._who,
            )
        until = time.monotonic() + _START_SECONDS
        ready = (self._programs / "pg_isready", "-q", "-h", self.directory)
        while subprocess.run(ready, check=False, timeout=10).returncode != 0:
            assert time.monotonic() < until, (self.directory / "log").read_text()

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop: by SIGQUIT at once, as a crash would, by SIGINT after ending each connection."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def pause(self) -> None:
        """Answer nobody, while connections stay."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again."""
        self._signal_all(signal.SIGCONT)

    def remove(self) -> None:
        """Stop and leave nothing."""
        self.stop()
        shutil.rmtree(self.directory)

    def url(self, database: str = "postgres") -> str:
        """Where a database is reached."""
        return f"postgresql://{_USER}@/{database}?host={self.directory}"

    async def schema(self) -> str:
        """Make what is as good as a database of one's own, a hundred times as fast: where it is reached."""
        name = f"test_{uuid.uuid4().hex}"
        await self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url()}&search_path={name}"

    async def execute(self, statement: str) -> None:
        """Do something by a connection of its own."""
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *map(int, children)):
            os.kill(one, number)


def _nobody() -> dict[str, Any]:
    found = pwd.getpwnam("nobody")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _end_with_parent() -> None:
    # Whatever becomes of the tests, no server stays.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
