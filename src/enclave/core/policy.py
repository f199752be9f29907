"""What a request may have: defaults, bounds, and the guarantees it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from enclave.contracts.sessions import CreateSessionRequest
from enclave.contracts.wire import wire_name
from enclave.core.egress import parse_rule, parse_rules

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
    problems = {
        f"limits.{wire_name(name)}": f"must be between {least:g} and {most:g}"
        for name, value in asked.items()
        for least, most in [(getattr(FLOOR, name), getattr(ceiling.most, name))]
        if not least <= value <= most
    }
    _refuse("a limit is out of bounds", problems)
    return ceiling.default.model_copy(update=asked)


_NO_RULES: Final = "must be empty when egress.mode is deny_all; use mode allowlist"


def check_egress(egress: EgressPolicy) -> None:
    """Raise InvalidRequest, naming each rule that is malformed and what to write instead, or a list that says nothing.

    A deny_all policy lists no rules: they would be read either way.
    """
    lists = {"egress.allow": egress.allow, "egress.deny": egress.deny}
    if egress.mode is EgressMode.DENY_ALL:
        idle = [field for field, rules in lists.items() if rules]
        _refuse("egress rules without an allowlist", dict.fromkeys(idle, _NO_RULES))
        return
    named = {f"{field}.{index}": rule for field, rules in lists.items() for index, rule in enumerate(rules)}
    found = {field: message for field, rule in named.items() if (message := _malformed(rule))}
    _refuse("an egress rule is malformed", found)


def _malformed(rule: str) -> str | None:
    try:
        parse_rule(rule)
    except ValueError as error:
        return str(error)
    return None


def _refuse(detail: str, problems: Mapping[str, str]) -> None:
    if problems:
        errors = tuple(FieldProblem(field=field, message=message) for field, message in problems.items())
        raise InvalidRequest(detail, errors=errors)


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


def required(request: CreateSessionRequest) -> frozenset[Guarantee]:
    """What must be enforced for a session to be taken."""
    asked = {
        Guarantee.EGRESS_ALLOWLIST: request.egress.mode is EgressMode.ALLOWLIST,
        Guarantee.EGRESS_ADDRESSES: parse_rules(request.egress.allow).raw,
        Guarantee.SERVICE_BINDINGS: bool(request.service_bindings),
        Guarantee.FILES: bool(request.files),
        Guarantee.GIT_SOURCE: request.source is not None,
    }
    return _ALWAYS | {_LANGUAGES[request.language]} | {guarantee for guarantee, needed in asked.items() if needed}


def require(needed: frozenset[Guarantee], given: frozenset[Guarantee]) -> None:
    """Pass if every needed guarantee is given; raise PolicyUnenforceable, naming those that are not."""
    if missing := sorted(needed - given):
        raise PolicyUnenforceable(f"this machine cannot enforce: {', '.join(missing)}; `enclave doctor` says why")
