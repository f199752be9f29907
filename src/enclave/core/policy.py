"""What a request may have: defaults, bounds, and the guarantees it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final

from enclave.contracts.errors import FieldProblem, InvalidRequest, PolicyUnenforceable
from enclave.contracts.policy import (
    EgressMode,
    EgressPolicy,
    Guarantee,
    Language,
    RequestedLimits,
    SessionLimits,
)
from enclave.contracts.sessions import Source
from enclave.contracts.wire import wire_name

FLOOR: Final = SessionLimits(
    memory_mib=16, wall_clock_seconds=0.1, cpu_seconds=0.1, cpus=0.05, pids=4, disk_mib=1, output_kib=1
)
"""The least of each limit with which a program can start at all."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the operator grants: the limits of a request that names none, and the most it may name."""

    default: SessionLimits = field(default_factory=SessionLimits)
    most: SessionLimits = field(
        default_factory=lambda: SessionLimits(
            memory_mib=4096,
            wall_clock_seconds=3600.0,
            cpu_seconds=3600.0,
            cpus=8.0,
            pids=1024,
            disk_mib=4096,
            output_kib=4096,
        )
    )


def resolve(requested: RequestedLimits, ceiling: Ceiling) -> SessionLimits:
    """The limits in force; raises InvalidRequest, naming each field that is out of bounds and the bounds."""
    asked = {name: value for name, value in requested if value is not None}
    problems = tuple(
        FieldProblem(field=f"limits.{wire_name(name)}", message=f"must be between {least:g} and {most:g}")
        for name, value in asked.items()
        for least, most in [(getattr(FLOOR, name), getattr(ceiling.most, name))]
        if not least <= value <= most
    )
    if problems:
        raise InvalidRequest("a limit is out of bounds", errors=problems)
    return ceiling.default.model_copy(update=asked)


def check_egress(egress: EgressPolicy) -> None:
    """Raise InvalidRequest, naming the rule, if one is malformed or a deny_all policy lists any."""
    if egress.mode is EgressMode.DENY_ALL and egress.allow:
        message = "must be empty when egress.mode is deny_all; use mode allowlist"
        raise InvalidRequest(
            "egress rules without an allowlist", errors=(FieldProblem(field="egress.allow", message=message),)
        )
    problems = tuple(
        FieldProblem(field=f"egress.allow.{index}", message="must be a CIDR, a host or *.host, with an optional :port")
        for index, rule in enumerate(egress.allow)
        if not _is_rule(rule)
    )
    if problems:
        raise InvalidRequest("an egress rule is malformed", errors=problems)


def _is_rule(rule: str) -> bool:
    target, port = _split_port(rule)
    return (port is None or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)) and (
        _is_cidr(target) or _is_host(target.removeprefix("*."))
    )


def _split_port(rule: str) -> tuple[str, str | None]:
    if rule.startswith("["):
        address, closed, rest = rule[1:].partition("]")
        return (
            (address, rest[1:]) if closed and rest.startswith(":") else (address if closed and not rest else "", None)
        )
    if rule.count(":") == 1:
        target, _, port = rule.partition(":")
        return target, port
    return rule, None


def _is_cidr(target: str) -> bool:
    try:
        ip_network(target, strict=False)
    except ValueError:
        return False
    return True


def _is_host(name: str) -> bool:
    labels = name.split(".")
    return (
        len(name) <= 253
        and not labels[-1].isdigit()
        and all(0 < len(label) <= 63 and _is_label(label) for label in labels)
    )


def _is_label(label: str) -> bool:
    letters = label.replace("-", "")
    return letters.isascii() and letters.isalnum() and label[0] != "-" and label[-1] != "-"


_LANGUAGES: Final[Mapping[Language, Guarantee]] = {
    Language.PYTHON: Guarantee.PYTHON,
    Language.NODE: Guarantee.NODE,
}

_ALWAYS: Final = frozenset(
    {
        Guarantee.ISOLATION,
        Guarantee.MEMORY_LIMIT,
        Guarantee.CPU_BUDGET,
        Guarantee.CPU_RATE,
        Guarantee.PIDS_LIMIT,
        Guarantee.WALL_CLOCK_LIMIT,
        Guarantee.DISK_LIMIT,
        Guarantee.EGRESS_DENY,
    }
)


def check_template(name: str, language: Language, offered: Mapping[str, Language]) -> None:
    """Raise InvalidRequest, saying which there are, unless a template of that name is offered for the language."""
    if offered.get(name) is language:
        return
    fitting = ", ".join(sorted(one for one, its in offered.items() if its is language)) or "there is none"
    detail = f"is for {offered[name]}" if name in offered else "does not exist"
    message = f"{name} {detail}; templates for {language}: {fitting}"
    raise InvalidRequest("no such template", errors=(FieldProblem(field="template", message=message),))


def required(language: Language, egress: EgressPolicy, source: Source | None = None) -> frozenset[Guarantee]:
    """What must be enforced for a session to be taken."""
    fetched = {Guarantee.GIT_SOURCE} if source is not None else set[Guarantee]()
    allowlist = {Guarantee.EGRESS_ALLOWLIST} if egress.mode is EgressMode.ALLOWLIST else set[Guarantee]()
    return _ALWAYS | {_LANGUAGES[language]} | allowlist | fetched


def require(needed: frozenset[Guarantee], given: frozenset[Guarantee]) -> None:
    """Pass if every needed guarantee is given; raise PolicyUnenforceable, naming those that are not."""
    if missing := sorted(needed - given):
        raise PolicyUnenforceable(f"this machine cannot enforce: {', '.join(missing)}; `enclave doctor` says why")
