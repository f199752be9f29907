"""What a session is granted: limits, egress, and the guarantees a backend gives in return."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from enclave.contracts.wire import Wire


class Language(StrEnum):
    """The interpreters a session can ask for."""

    PYTHON = "python"
    NODE = "node"


class RequestedLimits(Wire):
    """The limits a caller asks for; what is left out takes the operator's default."""

    memory_mib: int | None = None
    wall_clock_seconds: float | None = None
    cpu_seconds: float | None = None
    cpus: float | None = None
    pids: int | None = None
    disk_mib: int | None = None
    output_kib: int | None = None


class SessionLimits(Wire):
    """The limits in force, none left out.

    `memory_mib` counts everything the session touches, its files included. `cpu_seconds` is a total over all its
    processes, `cpus` the rate. `pids` counts processes and threads. `disk_mib` bounds the writable files, `output_kib`
    what is kept of stdout and of stderr, each.
    """

    memory_mib: int = 256
    wall_clock_seconds: float = 30.0
    cpu_seconds: float = 30.0
    cpus: float = 1.0
    pids: int = 64
    disk_mib: int = 64
    output_kib: int = 1024


class EgressMode(StrEnum):
    """Whether anything outside the sandbox can be reached."""

    DENY_ALL = "deny_all"
    ALLOWLIST = "allowlist"


EgressRule = Annotated[str, Field(min_length=1, max_length=300)]

MAX_RULES: Final = 256
"""The most rules that a caller may put in one list. What is in force may be several lists together."""


def _empty(value: object) -> bool:
    return value == ()


class EgressPolicy(Wire):
    """Where a session may connect to; nowhere by default, and whatever `deny` lists is never reached.

    A rule is a CIDR or an address (`10.0.0.0/8`, `2001:db8::1`), a host (`example.org`) or all that is below one
    (`*.example.org`, at any depth, not `example.org` itself), with an optional `:port` or `:from-to`; IPv6 with a port
    is written `[2001:db8::/32]:443`. Private space is reached only by a CIDR that lies within it, or by a name where
    the operator lets names lead there. Loopback, link-local, multicast and reserved addresses and a cloud's metadata
    service are never reached. A denied name is not resolved; an address that a CIDR allows is reached whatever names it
    has. `deny` is there only when it lists any: up to 256 rules of the request, and those that the operator's floor and
    the org's own policy deny.
    """

    mode: EgressMode = EgressMode.DENY_ALL
    allow: tuple[EgressRule, ...] = Field(default=(), max_length=MAX_RULES)
    deny: tuple[EgressRule, ...] = Field(default=(), max_length=3 * MAX_RULES, exclude_if=_empty)


class Guarantee(StrEnum):
    """Something a backend enforces, not merely configures."""

    PYTHON = "python"
    NODE = "node"
    ISOLATION = "isolation"
    MEMORY_LIMIT = "memory_limit"
    CPU_BUDGET = "cpu_budget"
    CPU_RATE = "cpu_rate"
    PIDS_LIMIT = "pids_limit"
    WALL_CLOCK_LIMIT = "wall_clock_limit"
    DISK_LIMIT = "disk_limit"
    EGRESS_DENY = "egress_deny"
    EGRESS_ALLOWLIST = "egress_allowlist"
    EGRESS_ADDRESSES = "egress_addresses"
    SERVICE_BINDINGS = "service_bindings"
    FILES = "files"
    GIT_SOURCE = "git_source"
