"""What lies within what: egress rules compared with one another, before anything is connected to."""

from collections.abc import Sequence

from enclave.core.address import span, within_private
from enclave.core.name import parents
from enclave.core.rule import CidrRule, NameRule, Ports, Rule


class Reach:
    """Rules, and what lies within one of them.

    A rule that only several of them cover together is not within any. Neither is a name within a CIDR, nor an address
    within a name: where a name leads is not known here, and changes.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._names: dict[tuple[str, bool], list[Ports]] = {}
        # By their bounds, as numbers: a list is held against another on the way to every session.
        self._networks: dict[int, list[tuple[int, int, bool, Ports]]] = {4: [], 6: []}
        for rule in self.rules:
            if isinstance(rule, NameRule):
                self._names.setdefault((rule.name, rule.wildcard), []).append(rule.ports)
            else:
                place = (*span(rule.network), within_private(rule.network), rule.ports)
                self._networks[rule.network.version].append(place)

    def opens(self, rule: Rule) -> bool:
        """Whether one of these allows whatever the rule allows.

        A CIDR opens private space only where it lies there wholly (`core.egress`), so `0.0.0.0/0` does not open what
        `10.0.0.0/8` opens.
        """
        if isinstance(rule, NameRule):
            return self._has_name(rule)
        return self._has_network(rule, inside=within_private(rule.network))

    def includes(self, rule: Rule) -> bool:
        """Whether one of these speaks of all that the rule speaks of, private space or not: as a denial does."""
        return self._has_name(rule) if isinstance(rule, NameRule) else self._has_network(rule, inside=False)

    def _has_name(self, rule: NameRule) -> bool:
        keys = ((rule.name, rule.wildcard), *((parent, True) for parent in parents(rule.name)))
        return any(ports.covers(rule.ports) for key in keys for ports in self._names.get(key, ()))

    def _has_network(self, rule: CidrRule, *, inside: bool) -> bool:
        first, last = span(rule.network)
        return any(
            low <= first and last <= high and (private or not inside) and ports.covers(rule.ports)
            for low, high, private, ports in self._networks[rule.network.version]
        )


def within(outer: Rule, inner: Rule) -> bool:
    """Whether the outer rule allows whatever the inner one allows."""
    return Reach((outer,)).opens(inner)
