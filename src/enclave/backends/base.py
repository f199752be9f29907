"""What a backend is.

To add one: write a module with a class that fits `Backend` and announce it under the entry point group
`enclave.backends`. No other file changes.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from enclave.contracts.policy import EgressPolicy, Guarantee, Language, SessionLimits
from enclave.contracts.sessions import KillReason, Usage


@dataclass(frozen=True, slots=True)
class Mounted:
    """A directory of this machine that a sandbox finds read-only in `/work/src`.

    `entrypoint` is the path in it of the program, if that is not given as code.
    """

    tree: Path
    entrypoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """Everything already decided about a sandbox; a backend decides nothing more. `env` never holds a secret."""

    session_id: str
    language: Language
    limits: SessionLimits
    egress: EgressPolicy
    template: str | None = None
    source: Mounted | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes as the program wrote them, hostile until shown otherwise."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a program ended. A failing program is an Exit, never an exception.

    `code` is null when `kill_reason` is set or the sandbox was stopped from outside. `value` is the last value handed
    over on the result channel: unparsed JSON of at most `MAX_RESULT_BYTES`; `value_error` says why there is none
    although one was handed over. `output_dropped` says of which streams bytes beyond the limit were thrown away.
    """

    code: int | None
    signal: int | None = None
    kill_reason: KillReason | None = None
    value: bytes | None = None
    value_error: str | None = None
    duration_seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    output_dropped: frozenset[Literal["stdout", "stderr"]] = frozenset()


class SandboxLost(Exception):
    """The sandbox vanished with the part of the platform that held it; how its program ended cannot be known."""


class Workload(Protocol):
    """A program that runs."""

    def output(self) -> AsyncIterator[Output]:
        """What it prints, as it prints it, at most `output_kib` of each stream; ends when it is over. Call it once."""
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
class Check:
    """One control of this machine: whether it holds, and if not, why and what to do.

    Without one that is not `essential` sessions still run contained, if they ask for nothing that it gives.
    """

    name: str
    holds: bool
    detail: str
    mend: str = ""
    essential: bool = True


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
