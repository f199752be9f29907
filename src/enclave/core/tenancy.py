"""What an org's sessions may ask for: the operator's floor, what the org narrows it to, and a request beside both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Self
from urllib.parse import urlsplit

from enclave.contracts.errors import PolicyForbids
from enclave.contracts.policy import EgressMode, EgressPolicy, RequestedLimits, SessionLimits
from enclave.contracts.sessions import CreateSessionRequest
from enclave.contracts.tenancy import OrgPolicy
from enclave.contracts.wire import wire_name
from enclave.core.address import translated
from enclave.core.grant import Grant
from enclave.core.policy import Ceiling, malformed, named, out_of_bounds, refuse
from enclave.core.reach import Reach
from enclave.core.rule import CidrRule, Rule, parse_rule

_PORTS: Final = {"https": 443, "http": 80}
_TOLD: Final = 10
"""The most that a refusal lists of what is allowed."""


def check_form(policy: OrgPolicy, ceiling: Ceiling, at: str = "") -> None:
    """Raise InvalidRequest, naming each field that no policy can have; `at` is what the policy is a field of."""
    problems = out_of_bounds(policy.limits, ceiling.most) | malformed(
        {"egress": policy.egress or (), "deny": policy.deny}
    )
    refuse("the policy is malformed", {f"{at}{field}": message for field, message in problems.items()})


def check_narrower(own: OrgPolicy, floor: OrgPolicy) -> None:
    """Raise PolicyForbids, naming each field in which a policy is wider than the floor."""
    bounds = Bound(_FLOOR, floor)
    rules = {f"egress.{at}": parse_rule(rule) for at, rule in enumerate(own.egress or ())}
    wider = {
        f"limits.{wire_name(name)}": f"must be at most {most:g}, the operator's floor"
        for name, most in named(floor.limits).items()
        if (getattr(own.limits, name) or 0) > most
    }
    wider |= {field: message for field, rule in rules.items() if (message := bounds.outside(rule))}
    wider |= dict(_beyond("templates", own.templates, bounds, floor.templates))
    wider |= dict(_beyond("backends", own.backends, bounds, floor.backends))
    refuse("an org can only narrow the operator's floor", wider, PolicyForbids)


def combined(floor: OrgPolicy, own: OrgPolicy) -> OrgPolicy:
    """The two together: the lesser limits, what both have of templates and backends, and what either denies.

    `egress` are the rules of each that lie within the other. A session is held to the two one by one, so where ports
    overlap only in part, more may be allowed than is listed here; never more than either allows.
    """
    return OrgPolicy(
        limits=_lesser(floor.limits, own.limits),
        egress=_common(floor.egress, own.egress),
        deny=_united(floor.deny, own.deny),
        templates=_shared(floor.templates, own.templates),
        backends=_shared(floor.backends, own.backends),
    )


class Bound:
    """One policy as requests are held against it; `whose` it is, as a refusal says it."""

    def __init__(self, whose: str, policy: OrgPolicy) -> None:
        self.whose = whose
        self.policy = policy
        self._reach = None if policy.egress is None else Reach([parse_rule(rule) for rule in policy.egress])
        self._denied = Reach([parse_rule(rule) for rule in policy.deny])

    def outside(self, rule: Rule) -> str | None:
        """What to say of an egress rule that allows more than this does; None if it does not."""
        if self._reach is None or self._reach.opens(rule):
            return None
        return f"{rule.text} is not within the egress of {self.whose}: {_listed(self.policy.egress or ())}"

    def closed(self, url: str) -> str | None:
        """What to say of an address that the platform itself would call for a session; None if it may."""
        rule = _place(url)
        if rule is None:
            free = self._reach is None and not self._denied.rules
            return None if free else f"is not known to be within the egress of {self.whose}"
        if any(self._denied.includes(one) for one in _meant(rule)):
            return f"{rule.text} is denied by {self.whose}"
        return self.outside(rule)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the sessions of an org may have: the limits, and each policy that a request is held against."""

    ceiling: Ceiling
    bounds: tuple[Bound, ...]
    deny: tuple[str, ...]

    @classmethod
    def of(cls, ceiling: Ceiling, floor: OrgPolicy, own: OrgPolicy) -> Self:
        """The allowance of an org, under the ceiling of the installation."""
        limits = _lesser(floor.limits, own.limits)
        most = _lowered(ceiling.most, limits)
        bounds = (Bound(_FLOOR, floor), Bound(_OWN, own))
        return cls(Ceiling(_lowered(ceiling.default, limits), most), bounds, _united(floor.deny, own.deny))

    def egress(self, asked: EgressPolicy) -> EgressPolicy:
        """What is in force where this was asked for."""
        if asked.mode is EgressMode.DENY_ALL or not self.deny:
            return asked
        return asked.model_copy(update={"deny": _united(asked.deny, self.deny)})

    def check(self, request: CreateSessionRequest, backend: str, grants: Sequence[Grant]) -> None:
        """Raise PolicyForbids, naming each field that asks for more than the policies allow; limits are not looked at.
        The request's egress rules and URLs must be well-formed."""
        asked = _Asked.of(request, backend, grants)
        problems: dict[str, str] = {}
        for bound in self.bounds:
            problems = dict(_forbidden(bound, asked)) | problems
        if problems:
            refuse(f"your org's policy does not allow: {', '.join(sorted(problems))}", problems, PolicyForbids)


_FLOOR: Final = "the operator's floor"
_OWN: Final = "your org's policy"


def _listed(names: Sequence[str]) -> str:
    """What there is to choose from, as a refusal says it."""
    return ", ".join([*names[:_TOLD], *["…"] * (len(names) > _TOLD)]) or "there is none"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks for, by its fields: rules to reach by, and addresses that are called on its behalf."""

    template: str | None
    backend: str
    rules: tuple[tuple[str, Rule], ...]
    urls: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, request: CreateSessionRequest, backend: str, grants: Sequence[Grant]) -> Self:
        rules = request.egress.allow if request.egress.mode is EgressMode.ALLOWLIST else ()
        urls = [(f"serviceBindings.{at}", grant.url) for at, grant in enumerate(grants)]
        if request.source is not None:
            urls.append(("source.git.url", request.source.git.url))
        if request.webhook_url is not None:
            urls.append(("webhookUrl", request.webhook_url))
        parsed = tuple((f"egress.allow.{at}", parse_rule(rule)) for at, rule in enumerate(rules))
        return cls(request.template, backend, parsed, tuple(urls))


def _forbidden(bound: Bound, asked: _Asked) -> Iterator[tuple[str, str]]:
    if asked.template is not None:
        yield from _beyond("template", (asked.template,), bound, bound.policy.templates)
    yield from _beyond("backend", (asked.backend,), bound, bound.policy.backends)
    found = [(field, bound.outside(rule)) for field, rule in asked.rules]
    found += [(field, bound.closed(url)) for field, url in asked.urls]
    yield from ((field, message) for field, message in found if message)


def _beyond(
    field: str, names: Sequence[str] | None, bound: Bound, allowed: Sequence[str] | None
) -> Iterator[tuple[str, str]]:
    if allowed is None:
        return
    for at, name in enumerate(names or ()):
        if name not in allowed:
            place = f"{field}.{at}" if field.endswith("s") else field
            yield place, f"{name} is none of those of {bound.whose}: {_listed(allowed)}"


def _place(url: str) -> Rule | None:
    """The rule that is a URL's host and port and nothing else; None if no rule can be."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or _PORTS.get(parts.scheme, 0)
    try:
        return parse_rule(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except ValueError:
        return None


def _meant(rule: Rule) -> Iterator[Rule]:
    # What a NAT64 gateway makes of an address is denied with it, as in `core.egress`.
    yield rule
    if isinstance(rule, CidrRule) and (inner := translated(rule.network.network_address)) is not None:
        yield parse_rule(f"{inner}:{rule.ports.first}")


def _common(floor: Sequence[str] | None, own: Sequence[str] | None) -> tuple[str, ...] | None:
    if floor is None or own is None:
        kept = own if floor is None else floor
        return None if kept is None else tuple(kept)
    outer, inner = Reach([parse_rule(rule) for rule in floor]), Reach([parse_rule(rule) for rule in own])
    both = chain(
        (rule.text for rule in inner.rules if outer.opens(rule)),
        (rule.text for rule in outer.rules if inner.opens(rule)),
    )
    return tuple(dict.fromkeys(both))


def _lesser(one: RequestedLimits, other: RequestedLimits) -> RequestedLimits:
    both = named(one) | {name: min(value, named(one).get(name, value)) for name, value in named(other).items()}
    return RequestedLimits.model_validate(both)


def _lowered(limits: SessionLimits, most: RequestedLimits) -> SessionLimits:
    return limits.model_copy(update={name: min(getattr(limits, name), value) for name, value in named(most).items()})


def _shared(one: Sequence[str] | None, other: Sequence[str] | None) -> tuple[str, ...] | None:
    if one is None or other is None:
        kept = other if one is None else one
        return None if kept is None else tuple(kept)
    return tuple(name for name in one if name in other)


def _united(*lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain(*lists)))
