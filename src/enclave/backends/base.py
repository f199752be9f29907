"""What a backend is.

To add one: write a module with a class that fits `Backend` and announce it under the entry point group
`enclave.backends`. No other file changes.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from enclave.contracts.files import Omission, SessionFile
from enclave.contracts.policy import EgressPolicy, Guarantee, Language, SessionLimits
from enclave.contracts.sessions import KillReason, Usage
from enclave.core.grant import Grant


@dataclass(frozen=True, slots=True)
class Mounted:
    """A directory of this machine that a sandbox finds read-only in `/work/src`.

    `entrypoint` is the path in it of the program, if that is not given as code.
    """

    tree: Path
    entrypoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """Everything already decided about a sandbox; a backend decides nothing more.

    `env` never holds a secret. `bindings` do: they are for the broker, and no part of them but a URL of the broker's is
    for the sandbox. Without the guarantee `service_bindings` there are none. `files`, by their checked paths, are in
    the program's directory when it starts, all of them or it does not start. Without the guarantee `files` there are
    none.
    """

    session_id: str
    language: Language
    limits: SessionLimits
    egress: EgressPolicy
    template: str | None = None
    bindings: tuple[Grant, ...] = ()
    source: Mounted | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes as the program wrote them, hostile until shown otherwise."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """What the program tried to reach, and what came of it.

    `target` is an address, or the name that was looked up (protocol `dns`); `name` the host's, where a rule on names
    was asked. `rule` is the rule that decided. `count` says how many attempts are told as one. Only what is `closed`
    has bytes and seconds.
    """

    verdict: Literal["allowed", "denied", "closed"]
    target: str
    port: int = 0
    protocol: Literal["tcp", "udp", "dns"] = "tcp"
    name: str | None = None
    rule: str | None = None
    reason: str = ""
    count: int = 1
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """A call that the program made through a service binding; `status` null if there was no answer.

    `count` says how many calls are told as one.
    """

    binding: str
    method: str
    path: str
    status: int | None
    sent_bytes: int
    received_bytes: int
    seconds: float
    error: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Violation:
    """A system call that only an exploit makes; the session is ended for it."""

    call: str


Told = Output | Egress | Invocation | Violation
"""What a program does, as it does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a program ended. A failing program is an Exit, never an exception.

    `code` is null when `kill_reason` is set or the sandbox was stopped from outside. `value` is the last value handed
    over on the result channel: unparsed JSON of at most `MAX_RESULT_BYTES`; `value_error` says why there is none
    although one was handed over. `output_dropped` says of which streams bytes beyond the limit were thrown away.
    `left_files` says that `Collecting.collect` has something to look at.
    """

    code: int | None
    signal: int | None = None
    kill_reason: KillReason | None = None
    value: bytes | None = None
    value_error: str | None = None
    duration_seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    output_dropped: frozenset[Literal["stdout", "stderr"]] = frozenset()
    left_files: bool = False


class SandboxLost(Exception):
    """The sandbox vanished with the part of the platform that held it; how its program ended cannot be known."""


class Workload(Protocol):
    """A program that runs."""

    def output(self) -> AsyncIterator[Told]:
        """What it prints and tries, as it does, at most `output_kib` of each stream; ends when it is over.

        Call it once. How often attempts are told is bounded by the backend.
        """
        ...

    async def wait(self) -> Exit:
        """How it ended. Raises SandboxLost."""
        ...


class Sandbox(Protocol):
    """An isolated place for one session."""

    async def run(self, code: str | None) -> Workload:
        """Start a program, without code the source's entry point. Raises Unavailable, and then nothing runs.

        The caller waits for one before the next.
        """
        ...

    async def teardown(self) -> None:
        """Stop whatever runs and return when nothing of the sandbox is left. Idempotent, allowed at any time."""
        ...


@dataclass(frozen=True, slots=True)
class Collected:
    """The files that a program left: those that were kept, and how many entries were not, by reason."""

    files: tuple[SessionFile, ...] = ()
    omitted: Mapping[Omission, int] = field(default_factory=dict)


@runtime_checkable
class Collecting(Protocol):
    """What a Sandbox is besides, where the backend gives Guarantee.FILES."""

    async def collect(self, into: Path) -> Collected:
        """Copy what the program left under `out/` into an empty directory of this machine, once nothing of it can run.

        The file at place n of the answer is kept as `into/n`: no name of a program's choice comes to be on our disk.
        Only regular files count, no link is followed, and what is over a bound of `enclave.contracts.files` is told as
        omitted. Raises SandboxLost, and OSError when the directory cannot be written. Called once, when `left_files`
        of the Exit says so.
        """
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One control of this machine: whether it holds, and if not, why and what to do.

    Without one that is not `essential` sessions still run contained, if they ask for nothing that it gives.
    """

    name: str
    holds: bool
    detail: str
    mend: str = ""
    essential: bool = True


@dataclass(frozen=True, slots=True)
class Pool:
    """Sandboxes that are kept ready: how many wait, and how many sessions so far found one and how many found none."""

    ready: int
    warm: int
    cold: int


@runtime_checkable
class Pooling(Protocol):
    """What a Backend is besides, where it keeps sandboxes ready."""

    def pools(self) -> Mapping[str, Pool]:
        """Its pools, by what they are for; `ready` as of the last session that took from it."""
        ...


class Backend(Protocol):
    """A way to isolate programs."""

    name: str

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """What it enforces here and now; valid after `start`."""
        ...

    def probe(self) -> tuple[Check, ...]:
        """What this machine can enforce, without starting anything."""
        ...

    async def start(self) -> None:
        """Acquire what it needs. What this machine cannot enforce is then missing from `guarantees`."""
        ...

    async def close(self) -> None:
        """Tear every sandbox down and release everything."""
        ...

    def healthy(self) -> bool:
        """Whether a session could be launched now."""
        ...

    def templates(self) -> Mapping[str, Language]:
        """The named environments it offers now; a session asks for one of its language, or for none."""
        ...

    async def launch(self, spec: LaunchSpec) -> Sandbox:
        """An empty sandbox for the session. Raises Unavailable; nothing is left behind then."""
        ...

    async def live(self) -> frozenset[str]:
        """The ids of the sessions that have a sandbox."""
        ...
