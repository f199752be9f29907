"""What a request may have: defaults, bounds, and the guarantees it needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from enclave.contracts.errors import EnclaveError, FieldProblem, InvalidRequest, PolicyUnenforceable
from enclave.contracts.policy import (
    MAX_RULES,
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
    refuse("a limit is out of bounds", out_of_bounds(requested, ceiling.most))
    return ceiling.default.model_copy(update=named(requested))


def named(limits: RequestedLimits) -> dict[str, float]:
    """The limits that are not left out, by their names."""
    return {name: value for name, value in limits if value is not None}


def out_of_bounds(limits: RequestedLimits, most: SessionLimits) -> dict[str, str]:
    """Each field that is out of bounds, and the bounds."""
    return {
        f"limits.{wire_name(name)}": f"must be between {least:g} and {greatest:g}"
        for name, value in named(limits).items()
        for least, greatest in [(getattr(FLOOR, name), getattr(most, name))]
        if not least <= value <= greatest
    }


MAX_FOREIGN: Final = 16
"""The most rules of a request that are not ASCII: to tell which name one means takes a thousand times longer."""

_NO_RULES: Final = "must be empty when egress.mode is deny_all; use mode allowlist"


def check_egress(egress: EgressPolicy) -> None:
    """Raise InvalidRequest, naming each rule that is malformed and what to write instead, or a list that says nothing.

    A deny_all policy lists no rules: they would be read either way.
    """
    lists = {"egress.allow": egress.allow, "egress.deny": egress.deny}
    if egress.mode is EgressMode.DENY_ALL:
        idle = [field for field, rules in lists.items() if rules]
        refuse("egress rules without an allowlist", dict.fromkeys(idle, _NO_RULES))
        return
    refuse("an egress rule is malformed", malformed(lists))


def malformed(lists: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each rule of the lists, by their fields, that is none, and what to write instead; each list that is too long."""
    if long := [field for field, rules in lists.items() if len(rules) > MAX_RULES]:
        return dict.fromkeys(long, f"has more than {MAX_RULES} rules")
    foreign = [field for field, rules in lists.items() for rule in rules if not rule.isascii()]
    if len(foreign) > MAX_FOREIGN:
        return dict.fromkeys(foreign, f"more than {MAX_FOREIGN} rules are not ASCII; write names in their xn-- form")
    rules = {f"{field}.{index}": rule for field, rules in lists.items() for index, rule in enumerate(rules)}
    return {field: message for field, rule in rules.items() if (message := _malformed(rule))}


def _malformed(rule: str) -> str | None:
    try:
        parse_rule(rule)
    except ValueError as error:
        return str(error)
    return None


def refuse(detail: str, problems: Mapping[str, str], kind: type[EnclaveError] = InvalidRequest) -> None:
    """Raise an error that names the fields, if there is any."""
    if problems:
        errors = tuple(FieldProblem(field=field, message=message) for field, message in problems.items())
        raise kind(detail, errors=errors)


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
