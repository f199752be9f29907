"""What may be connected to: a session's rules, and the verdict on one connection.

The broker holds this, so it needs the standard library only, and a verdict takes microseconds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from enclave.core.address import (
    Address,
    Network,
    canonical,
    forbidden,
    private,
    span,
    translated,
    unmapped,
    within_private,
)
from enclave.core.name import normalise_name, parents, unreachable
from enclave.core.rule import CidrRule, NameRule, Ports, Rule, parse_rule

__all__ = [
    "Address",
    "CidrRule",
    "Floor",
    "NameRule",
    "Network",
    "Ports",
    "Rule",
    "Rules",
    "Verdict",
    "canonical",
    "decide",
    "forbidden",
    "normalise_name",
    "parse_rule",
    "parse_rules",
    "private",
    "resolvable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What the operator sets for every session, as texts.

    `deny` are rules that deny whatever a session allows, `private` networks that names and the upstreams of bindings
    may resolve into, `authorities` a PEM file of certificates that upstreams are trusted by beside the system's.
    """

    deny: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    authorities: str | None = None


@dataclass(frozen=True, slots=True)
class _Table:
    """Rules as they are looked up: networks by their bounds, names by their text and that of what they lie below."""

    networks: Mapping[int, tuple[tuple[int, int, CidrRule], ...]]
    names: Mapping[tuple[str, bool], tuple[tuple[int, NameRule], ...]]

    @classmethod
    def of(cls, rules: Sequence[Rule]) -> "_Table":
        networks: dict[int, list[tuple[int, int, CidrRule]]] = {4: [], 6: []}
        names: dict[tuple[str, bool], list[tuple[int, NameRule]]] = {}
        for place, rule in enumerate(rules):
            if isinstance(rule, CidrRule):
                networks[rule.network.version].append((*span(rule.network), rule))
            else:
                names.setdefault((rule.name, rule.wildcard), []).append((place, rule))
        return cls(
            {version: tuple(found) for version, found in networks.items()},
            {key: tuple(found) for key, found in names.items()},
        )

    def at(self, address: Address, port: int) -> CidrRule | None:
        """The first rule on an address and a port."""
        value = int(address)
        for first, last, rule in self.networks[address.version]:
            if first <= value <= last and port in rule.ports:
                return rule
        return None

    def on(self, name: str) -> list[NameRule]:
        """The rules on a name, in the order they are listed."""
        if not self.names:
            return []
        keys = [(name, False), *((parent, True) for parent in parents(name))]
        found = [pair for key in keys for pair in self.names.get(key, ())]
        return [rule for _, rule in sorted(found, key=lambda pair: pair[0])]

    def named(self, name: str, port: int) -> NameRule | None:
        """The first rule on a name and a port."""
        return next((rule for rule in self.on(name) if port in rule.ports), None)


@dataclass(frozen=True, slots=True)
class Rules:
    """A session's rules; `private` are networks whose private addresses the operator lets names resolve into.

    Leave for anything else, such as loopback, is leave for the upstreams of bindings, and opens nothing here.

    A name that is denied is not resolved, and closes every address it was resolved to. An address that a CIDR allows is
    reached by its number, whatever names it has: to close an address, deny its CIDR.
    """

    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...] = ()
    private: tuple[Network, ...] = ()
    _allowed: _Table = field(init=False, repr=False, compare=False)
    _inside: _Table = field(init=False, repr=False, compare=False)
    _denied: _Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inside = [rule for rule in self.allow if isinstance(rule, CidrRule) and within_private(rule.network)]
        object.__setattr__(self, "_allowed", _Table.of(self.allow))
        object.__setattr__(self, "_inside", _Table.of(inside))
        object.__setattr__(self, "_denied", _Table.of(self.deny))

    @property
    def raw(self) -> bool:
        """Whether any rule may allow a connection that carries no name."""
        return any(isinstance(rule, CidrRule) for rule in self.allow)

    def denied(self, address: Address, port: int, pinned: Collection[str]) -> Rule | None:
        """The rule that denies a connection, whatever allows it."""
        inner = translated(address)
        return (
            self._denied.at(address, port)
            or (inner and self._denied.at(inner, port))
            or next((rule for name in sorted(pinned) if (rule := self._denied.named(name, port))), None)
        )

    def addressed(self, address: Address, port: int) -> CidrRule | None:
        """The rule that allows an address itself; in private space only one that lies there wholly."""
        return (self._inside if private(address) else self._allowed).at(address, port)

    def named(self, name: str, port: int) -> NameRule | None:
        """The rule that allows a name at a port."""
        return None if unreachable(name) else self._allowed.named(name, port)

    def resolvable(self, name: str) -> NameRule | None:
        """The rule for which a name is resolved: one that allows it at a port where no rule denies it."""
        denials = self._denied.on(name)
        allowing = [] if unreachable(name) else self._allowed.on(name)
        return next((rule for rule in allowing if not any(no.ports.covers(rule.ports) for no in denials)), None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a connection may be made, by which rule's text (None: no rule said anything), and why.

    `names` are those that allow it: the connection must then carry one of them (TLS server name, or Host). There are
    none when a CIDR allows it: whatever is said over it is the session's own.
    """

    allowed: bool
    rule: str | None
    why: str
    names: tuple[str, ...] = ()


def parse_rules(allow: Sequence[str], deny: Sequence[str] = (), private: Sequence[str] = ()) -> Rules:
    """The rules that the texts are; raises ValueError for the first that is none."""
    return Rules(
        tuple(parse_rule(text) for text in allow),
        tuple(parse_rule(text) for text in deny),
        tuple(ip_network(text) for text in private),
    )


def resolvable(rules: Rules, name: str) -> NameRule | None:
    """The rule that lets a (normalised) name be resolved; None if none does, or whatever it allows is denied."""
    return rules.resolvable(name)


def decide(rules: Rules, address: Address, port: int, pinned: Collection[str] = ()) -> Verdict:
    """The verdict on a connection; `pinned` are the (normalised) names this session resolved to this very address.

    What can never be reached comes first, then what is denied, then what a CIDR allows, then what a name allows.
    """
    address = unmapped(address)
    if floor := forbidden(address):
        return Verdict(False, None, f"{floor} is never reachable")
    if denial := rules.denied(address, port, pinned):
        return Verdict(False, denial.text, "a rule denies it")
    if cidr := rules.addressed(address, port):
        return Verdict(True, cidr.text, "a rule allows the address")
    return _decide_by_name(rules, address, port, pinned)


def _decide_by_name(rules: Rules, address: Address, port: int, pinned: Collection[str]) -> Verdict:
    allowing = {name: rule for name in sorted(pinned) if (rule := rules.named(name, port))}
    if private(address) and not any(address in network for network in rules.private):
        return Verdict(False, None, "a private address is reached only by a rule that names it by a private CIDR")
    if not allowing:
        return Verdict(False, None, "no rule allows it")
    return Verdict(True, next(iter(allowing.values())).text, "a rule allows the name", tuple(allowing))
