"""What each launcher is started as: the one of the bare interpreters, and that of a template."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from enclave.backends.local import machine
from enclave.backends.local.connection import Program
from enclave.backends.local.machine import Interpreter
from enclave.backends.local.template import Kept
from enclave.contracts.policy import Language, SessionLimits
from enclave.sandbox import template as inside
from enclave.sandbox import wire

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Warm:
    """The least sandboxes to keep ready, unless the operator says otherwise, and what each takes of the machine.

    That is measured (for Node in docs/decisions/0005), the kernel's part included, and rounded up to twice.
    """

    least: int
    idle_bytes: int


_WARM: Final = {Language.PYTHON: Warm(16, 5 * MIB), Language.NODE: Warm(2, 16 * MIB)}
_WARM_OF_TEMPLATE: Final = {Language.PYTHON: Warm(4, 5 * MIB), Language.NODE: Warm(2, 64 * MIB)}
"""A fork shares what is preloaded; each Node has its own."""
_REFUSAL: Final = "no sandbox can be made on this machine: {why}; see `enclave doctor`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a launcher is started as: its program, its first order, and what its sessions have in their environment.

    `refusal` says what cannot be had when it does not stand, with a place for why.
    """

    program: Program
    order: wire.Configure
    refusal: str
    session_environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Share:
    """What a launcher has of the machine: the most sandboxes it keeps ready, if that is said, and its host user ids.

    `sources` is the directory that the sources of sessions are in, if there is one.
    """

    pool: int | None
    uids: int
    sources: str | None = None


def bare(python: Interpreter, node: Interpreter | None, share: Share) -> Plan:
    """The launcher of sessions without a template."""
    interpreters = {Language.PYTHON: python, **({Language.NODE: node} if node else {})}
    order = replace(
        _order(share, _WARM),
        prefixes=[each.prefix for each in interpreters.values()],
        commands={"python": [], **({"node": [node.path, machine.NODE_GUEST]} if node else {})},
        files=machine.node_files() if node else {},
    )
    return Plan(program=_launcher(python.path), order=order, refusal=_REFUSAL)


def of_template(kept: Kept, share: Share) -> Plan:
    """The launcher of sessions under a template."""
    return _of_node(kept, share) if kept.template.language is Language.NODE else _of_python(kept, share)


def _of_python(kept: Kept, share: Share) -> Plan:
    order = replace(
        _order(share, _WARM_OF_TEMPLATE),
        prefixes=[kept.template.prefix],
        packages=str(kept.packages),
        preload=kept.template.preload,
    )
    return Plan(
        program=_launcher(kept.template.interpreter, inside.SINGLE_THREADED),
        order=order,
        refusal=_cannot_be_used(kept),
        session_environment=inside.ENVIRONMENT,
    )


def _of_node(kept: Kept, share: Share) -> Plan:
    # Preloaded by each guest, not by the launcher: nothing of the packages ever runs outside a sandbox.
    python = machine.python()
    order = replace(
        _order(share, _WARM_OF_TEMPLATE),
        prefixes=[python.prefix, kept.template.prefix],
        commands={"node": [kept.template.interpreter, machine.NODE_GUEST, *kept.template.preload]},
        files=machine.node_files(),
        links=inside.NODE_LINKS,
        packages=str(kept.packages),
    )
    return Plan(program=_launcher(python.path), order=order, refusal=_cannot_be_used(kept))


def _launcher(interpreter: str, environment: Mapping[str, str] | None = None) -> Program:
    # It starts over once, from a place where it can write nothing.
    return Program(
        name="sandbox launcher",
        module="enclave.sandbox.boot",
        interpreter=interpreter,
        environment=environment or {},
        starts=2,
    )


def _cannot_be_used(kept: Kept) -> str:
    return f"template {kept.template.name!r} cannot be used: {{why}}"


def _order(share: Share, kept: Mapping[Language, Warm]) -> wire.Configure:
    limits = SessionLimits()
    return wire.Configure(
        instance="",
        prefixes=(),
        commands={"python": []},
        files={},
        warm={language: _bounds(share, each) for language, each in kept.items()},
        memory_bytes=limits.memory_mib * MIB,
        tasks=limits.pids,
        cpus=limits.cpus,
        disk_bytes=limits.disk_mib * MIB,
        uids=share.uids,
        sources=share.sources,
    )


def _bounds(share: Share, each: Warm) -> tuple[int, int]:
    most = max(each.least, machine.most_ready(each.idle_bytes)) if share.pool is None else share.pool
    return min(each.least, most), most
