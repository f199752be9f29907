"""The verdict on a connection, against a matcher that is naive on purpose."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from enclave.core.egress import Rules, Verdict, canonical, decide, parse_rules, resolvable

# The reference: addresses and networks are strings of bits, names are tuples of labels, every question is a loop.


def bits(text: str) -> str:
    """An address as its family and its bits, by the C library."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    packed = socket.inet_pton(family, text)
    return f"{len(packed)}:" + "".join(f"{byte:08b}" for byte in packed)


def prefix(text: str) -> str:
    address, _, length = text.partition("/")
    family, _, rest = bits(address).partition(":")
    return f"{family}:{rest[: int(length)]}"


MAPPED = prefix("::ffff:0:0/96")
GATEWAY = prefix("64:ff9b::/96")
SHUT = [
    prefix(text)
    for text in """
    0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/4 240.0.0.0/4 100.100.100.200/32 168.63.129.16/32 192.0.0.192/32
    ::/96 ::ffff:0:0:0/96 64:ff9b:1::/48 2001::/32 2002::/16 fe80::/10 ff00::/8 fd00:ec2::/32 fd20:ce::254/128
    fd00:c1::a9fe:a9fe/128 fd00:42::42/128 fd00:a9fe:a9fe::1/128 fd00:100::100:200/128
    """.split()
]
HOME = [prefix(text) for text in "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10".split()]


@dataclass(frozen=True)
class Net:
    address: str
    length: int
    ports: tuple[int, int] | None

    @property
    def prefix(self) -> str:
        return prefix(f"{self.address}/{self.length}")

    def __str__(self) -> str:
        text = f"{self.address}/{self.length}"
        return text if self.ports is None else f"{f'[{text}]' if ':' in text else text}{said(self.ports)}"


@dataclass(frozen=True)
class Host:
    labels: tuple[str, ...]
    below: bool
    ports: tuple[int, int] | None

    def __str__(self) -> str:
        return ("*." if self.below else "") + ".".join(self.labels) + ("" if self.ports is None else said(self.ports))

    def covers(self, name: str) -> bool:
        labels = tuple(name.split("."))
        if not self.below:
            return labels == self.labels
        return any(labels[cut:] == self.labels for cut in range(1, len(labels)))


def said(ports: tuple[int, int]) -> str:
    return f":{ports[0]}" if ports[0] == ports[1] else f":{ports[0]}-{ports[1]}"


def open_at(rule: Net | Host, port: int) -> bool:
    return port in (range(1, 65536) if rule.ports is None else range(rule.ports[0], rule.ports[1] + 1))


def shut(address: str) -> bool:
    if address.startswith(GATEWAY):
        inner = "4:" + address.removeprefix(GATEWAY)
        return shut(inner) or any(inner.startswith(one) for one in HOME)
    if address.startswith("16:") and address[3 + 64 : 3 + 96] in (f"{0x5EFE:032b}", f"{0x02005EFE:032b}"):
        return True
    return any(address.startswith(one) for one in SHUT)


@dataclass(frozen=True)
class Naive:
    """Whether a connection is allowed, by which rule, and for which names."""

    allow: Sequence[Net | Host]
    deny: Sequence[Net | Host]
    leave: Sequence[str]

    def verdict(self, address: str, port: int, pinned: Sequence[str]) -> tuple[bool, str | None, list[str]]:
        where = "4:" + address.removeprefix(MAPPED) if address.startswith(MAPPED) else address
        if shut(where):
            return False, None, []
        inner = "4:" + where.removeprefix(GATEWAY) if where.startswith(GATEWAY) else where
        if denied := self.nets(self.deny, where, port) + self.nets(self.deny, inner, port):
            return False, str(denied[0]), []
        if unwanted := self.hosts(self.deny, port, pinned):
            return False, unwanted[0][1], []
        home = any(where.startswith(one) for one in HOME)
        opened = self.nets(self.allow, where, port)
        if allowed := [net for net in opened if not home or any(net.prefix.startswith(one) for one in HOME)]:
            return True, str(allowed[0]), []
        found = self.hosts(self.allow, port, [name for name in pinned if "metadata" not in name])
        if not found or (home and not any(where.startswith(prefix(one)) for one in self.leave)):
            return False, None, []
        return True, found[0][1], list(dict(found))

    def nets(self, rules: Sequence[Net | Host], where: str, port: int) -> list[Net]:
        mine = [rule for rule in rules if isinstance(rule, Net)]
        return [rule for rule in mine if where.startswith(rule.prefix) and open_at(rule, port)]

    def hosts(self, rules: Sequence[Net | Host], port: int, names: Sequence[str]) -> list[tuple[str, str]]:
        mine = [rule for rule in rules if isinstance(rule, Host) and open_at(rule, port)]
        return [(name, str(rule)) for name in sorted(names) for rule in mine if rule.covers(name)]


SEEDS = """
    8.8.8.8 93.184.216.34 10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 100.100.100.200 127.0.0.1 169.254.169.254 0.0.0.1
    224.0.0.1 255.255.255.255 168.63.129.16 192.0.0.192 2606:2800:220:1::1 2001:db8::1 fd00::1 fec0::1 ::1 ::
    ::ffff:8.8.8.8 ::ffff:10.1.2.3 ::8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::10.1.2.3 64:ff9b::127.0.0.1 64:ff9b:1::1 2002::1
    2001::1 2001:db8::5efe:8.8.8.8 fe80::1 ff02::1 fd00:ec2::254 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42
    fd00:a9fe:a9fe::1 fd00:100::100:200 ::ffff:0:8.8.8.8
""".split()
PORTS = st.sampled_from([1, 22, 80, 443, 444, 8080, 65535])
NAMES = [
    "example.org", "a.example.org", "b.example.org", "a.b.example.org", "xexample.org", "example.org.evil.example",
    "db", "metadata.google.internal", "vm.google.internal",
]  # fmt: skip
RANGES = (
    st.none() | PORTS.map(lambda port: (port, port)) | st.tuples(PORTS, PORTS).map(lambda two: (min(two), max(two)))
)


@st.composite
def addresses(draw: st.DrawFn) -> bytes:
    """An address that matters, or a neighbour of one, a bit or two away."""
    text = draw(st.sampled_from(SEEDS[:3]) | st.sampled_from(SEEDS))
    packed = int.from_bytes(raw := socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text))
    for place in draw(st.lists(st.integers(0, len(raw) * 8 - 1), max_size=2)):
        packed ^= 1 << place
    return packed.to_bytes(len(raw))


def text_of(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)


@st.composite
def nets(draw: st.DrawFn, around: st.SearchStrategy[bytes]) -> Net:
    packed = draw(around)
    width = len(packed) * 8
    length = draw(st.integers(0, width) | st.sampled_from([0, 4, 7, 8, 10, 12, 16, 32]))
    kept = (int.from_bytes(packed) >> (width - length) << (width - length)).to_bytes(len(packed))
    assume(length < 96 or not bits(text_of(kept)).startswith(MAPPED))
    return Net(text_of(kept), length, draw(RANGES))


HOSTS = st.builds(
    lambda name, below, ports: Host(tuple(name.split(".")), below and "." in name, ports),
    st.sampled_from([name for name in NAMES if "metadata" not in name] + ["google.internal", "b.example.org"]),
    st.booleans(),
    RANGES,
)


@dataclass(frozen=True)
class World:
    """A connection, and rules that have to do with it more often than chance would have it."""

    packed: bytes
    allow: list[Net | Host]
    deny: list[Net | Host]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    packed = draw(addresses())
    rules = st.one_of(HOSTS, HOSTS, nets(addresses()), nets(st.just(packed)))
    return World(
        packed, draw(st.lists(rules, max_size=5)), draw(st.just([]) | st.just([]) | st.lists(rules, max_size=3))
    )


LISTS = st.lists(HOSTS | nets(addresses()), max_size=5)
LEAVES = st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "192.168.1.1/32", "fd00::/8", "fec0::/10"]), max_size=2)
PINNED = st.lists(st.sampled_from(NAMES), max_size=4, unique=True)


@settings(max_examples=500)
@given(worlds(), LEAVES, PORTS, PINNED)
def test_a_verdict_is_what_the_naive_reading_of_the_rules_says(
    world: World, leave: list[str], port: int, pinned: list[str]
) -> None:
    rules = parse_rules([str(one) for one in world.allow], [str(one) for one in world.deny], leave)

    verdict = decide(rules, canonical(world.packed), port, pinned)

    address = f"{len(world.packed)}:" + "".join(f"{byte:08b}" for byte in world.packed)
    event(f"{verdict.why}, named: {bool(verdict.names)}")
    expected = Naive(world.allow, world.deny, leave).verdict(address, port, pinned)
    assert (verdict.allowed, verdict.rule, list(verdict.names)) == expected
    assert decide(rules, ip_address(world.packed), port, set(pinned)) == verdict


@given(LISTS, LISTS, st.sampled_from(NAMES))
@example([Host(("example", "org"), False, (443, 443))], [Host(("example", "org"), False, (443, 443))], "example.org")
def test_a_name_is_resolved_for_the_first_rule_that_is_not_wholly_denied(
    allow: list[Net | Host], deny: list[Net | Host], name: str
) -> None:
    rules = parse_rules([str(one) for one in allow], [str(one) for one in deny])

    found = resolvable(rules, name)

    def span(rule: Host) -> set[int]:
        low, high = rule.ports or (1, 65535)
        return {low, high}

    open_for = [
        str(rule)
        for rule in allow
        if isinstance(rule, Host) and rule.covers(name) and "metadata" not in name
        if not any(
            isinstance(no, Host) and no.covers(name) and all(open_at(no, port) for port in span(rule)) for no in deny
        )
    ]
    assert (found and found.text) == (open_for[0] if open_for else None)


@given(worlds(), PORTS, PINNED)
def test_what_connects_by_a_name_could_be_resolved_by_it(world: World, port: int, pinned: list[str]) -> None:
    rules = parse_rules([str(one) for one in world.allow], [str(one) for one in world.deny])

    verdict = decide(rules, canonical(world.packed), port, pinned)

    assert set(verdict.names) <= set(pinned)
    assert all(resolvable(rules, name) for name in verdict.names)


def verdict(allow: Sequence[str], address: str, port: int = 443, **rest: Any) -> Verdict:
    pinned = rest.pop("pinned", ())
    return decide(parse_rules(allow, **rest), canonical(address), port, pinned)


def test_a_rule_on_addresses_allows_a_raw_connection() -> None:
    assert verdict(["8.8.8.0/24:53"], "8.8.8.8", 53) == Verdict(True, "8.8.8.0/24:53", "a rule allows the address", ())
    assert not verdict(["8.8.8.0/24:53"], "8.8.8.8", 54).allowed
    assert not verdict(["8.8.8.0/24:53"], "8.8.9.8", 53).allowed


def test_a_rule_on_names_allows_the_names_that_were_resolved_and_no_other() -> None:
    allow = ["*.example.org:443", "db"]
    named = verdict(allow, "8.8.8.8", pinned=("b.example.org", "a.example.org", "other.example"))

    assert named == Verdict(True, "*.example.org:443", "a rule allows the name", ("a.example.org", "b.example.org"))
    assert verdict(allow, "8.8.8.8") == Verdict(False, None, "no rule allows it", ())
    assert not verdict(allow, "8.8.8.8", 80, pinned=("a.example.org",)).allowed
    assert not verdict(allow, "8.8.8.8", pinned=("example.org",)).allowed


@pytest.mark.parametrize(
    "allow", [["*.b.org", "a.b.org"], ["a.b.org", "*.b.org"], ["*.b.org:443", "*.a.b.org", "a.b.org"]]
)
def test_of_several_rules_on_a_name_the_first_listed_is_told(allow: list[str]) -> None:
    assert verdict(allow, "8.8.8.8", pinned=("a.b.org",)).rule == allow[0]
    assert verdict(["0.0.0.0/0"], "8.8.8.8", deny=allow, pinned=("a.b.org",)).rule == allow[0]


def test_an_address_wins_over_a_name() -> None:
    assert verdict(["example.org", "8.8.8.8"], "8.8.8.8", pinned=("example.org",)).names == ()


@pytest.mark.parametrize(
    "deny", ["8.8.8.8", "0.0.0.0/0", "8.8.8.8:443", "example.org", "*.example.org", "b.example.org:1-500"]
)
@pytest.mark.parametrize("allow", ["8.8.8.8", "0.0.0.0/0:443", "*.example.org"])
def test_what_is_denied_wins_whatever_its_kind(allow: str, deny: str) -> None:
    denied = verdict([allow], "8.8.8.8", deny=[deny], pinned=("a.example.org", "b.example.org", "example.org"))

    assert denied == Verdict(False, deny, "a rule denies it", ())


def test_a_denied_address_is_denied_behind_a_gateway_too() -> None:
    assert verdict(["::/0"], "64:ff9b::8.8.8.8").allowed
    assert verdict(["::/0"], "64:ff9b::8.8.8.8", deny=["8.8.8.8"]).rule == "8.8.8.8"


PRIVATE = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "fec0::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_space_is_opened_only_by_a_cidr_within_it_or_the_operators_leave_to_a_name(address: str) -> None:
    host = f"{address}/{32 if '.' in address else 128}"
    whole = ["0.0.0.0/0", "::/0", "8.0.0.0/5", "160.0.0.0/3", "100.0.0.0/8", "192.0.0.0/8", "f800::/5"]

    assert not verdict(whole, address).allowed
    assert "private" in verdict(whole, address).why
    assert verdict([*whole, host], address).rule == host
    assert not verdict(["example.org"], address, pinned=("example.org",)).allowed
    assert verdict(["example.org"], address, pinned=("example.org",), private=[host]).names == ("example.org",)
    assert not verdict(["example.org"], address, pinned=("other.org",), private=[host]).allowed
    assert not verdict(whole, address, private=[host]).allowed


@pytest.mark.parametrize("leave", ["127.0.0.1/32", "127.0.0.0/8", "::1/128", "0.0.0.0/0"])
def test_leave_for_upstreams_on_the_machine_itself_opens_no_loopback_to_a_name(leave: str) -> None:
    for address in ("127.0.0.1", "::1", "169.254.169.254"):
        assert not verdict(["example.org"], address, pinned=("example.org",), private=[leave]).allowed


def test_a_cidr_of_private_space_opens_it_at_its_own_port_alone() -> None:
    allow = ["10.0.0.0/8:5432", "example.org"]

    assert verdict(allow, "10.1.2.3", 5432, pinned=("example.org",)).rule == "10.0.0.0/8:5432"
    assert not verdict(allow, "10.1.2.3", 443, pinned=("example.org",)).allowed


METADATA = """
    169.254.169.254 169.254.170.2 169.254.170.23 169.254.42.42 169.254.0.23 100.100.100.200 168.63.129.16 192.0.0.192
    fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42 fd00:a9fe:a9fe::1 fd00:100::100:200
    fe80::a9fe:a9fe
""".split()


@pytest.mark.parametrize("address", [*METADATA, "127.0.0.1", "::1", "0.0.0.0", "::", "255.255.255.255", "ff02::1"])
def test_some_addresses_no_rule_opens(address: str) -> None:
    allow = ["0.0.0.0/0", "::/0", address, "fc00::/7", "100.64.0.0/10", "*.example.org"]
    shut_off = verdict(allow, address, 80, pinned=("a.example.org",), private=["fc00::/7", "100.64.0.0/10"])

    assert (shut_off.allowed, shut_off.rule, shut_off.names) == (False, None, ())
    assert shut_off.why.endswith("is never reachable")


@pytest.mark.parametrize("address", [one for one in METADATA if "." in one])
@pytest.mark.parametrize(
    "form", ["::ffff:{}", "64:ff9b::{}", "::{}", "2001:db8::5efe:{}", "::ffff:0:{}", "64:ff9b:1::{}"]
)
def test_nor_in_any_form_that_carries_them(address: str, form: str) -> None:
    assert not verdict(["0.0.0.0/0", "::/0"], form.format(address), 80).allowed


def test_a_metadata_name_is_not_resolved_under_a_wildcard_nor_connected_to() -> None:
    rules = parse_rules(["*.google.internal", "*.compute.internal"])

    assert resolvable(rules, "vm.google.internal")
    assert resolvable(rules, "metadata.google.internal") is None
    assert resolvable(rules, "instance-data.eu-west-1.compute.internal") is None
    assert not decide(rules, canonical("8.8.8.8"), 80, ["metadata.google.internal"]).allowed


def test_a_name_is_resolved_unless_all_that_it_is_allowed_for_is_denied() -> None:
    assert resolvable(parse_rules(["*.example.org"], ["a.example.org"]), "a.example.org") is None
    assert resolvable(parse_rules(["*.example.org"], ["a.example.org"]), "b.example.org")
    assert resolvable(parse_rules(["*.example.org"], ["a.example.org:25"]), "a.example.org")
    assert resolvable(parse_rules(["*.example.org"], ["0.0.0.0/0"]), "a.example.org")
    assert resolvable(parse_rules(["0.0.0.0/0"]), "a.example.org") is None


@pytest.mark.parametrize(("allow", "raw"), [([], False), (["example.org"], False), (["example.org", "::/0"], True)])
def test_rules_tell_whether_a_connection_may_be_raw(allow: list[str], raw: bool) -> None:
    assert parse_rules(allow).raw is raw


def test_rules_are_what_they_were_made_of() -> None:
    made = parse_rules(["example.org", "10.0.0.0/8"], ["::/0"], ["fc00::/7"])

    assert made == Rules(made.allow, made.deny, made.private)
    assert [rule.text for rule in made.allow] == ["example.org", "10.0.0.0/8"]
    assert [str(network) for network in made.private] == ["fc00::/7"]
    assert decide(Rules(()), canonical("8.8.8.8"), 443) == Verdict(False, None, "no rule allows it", ())


@pytest.mark.parametrize("text", ["10.0.0.0/8:443", "10.0.0.1/8", "example.org"])
def test_the_operators_leave_is_for_networks(text: str) -> None:
    with pytest.raises(ValueError, match=r"IPv4 or IPv6 network|host bits"):
        parse_rules(["example.org"], private=[text])


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_not_reached(port: int) -> None:
    assert not verdict(["0.0.0.0/0", "example.org"], "8.8.8.8", port, pinned=("example.org",)).allowed


def test_the_broker_loads_the_standard_library_alone() -> None:
    code = "import sys, enclave.core.egress; print(' '.join(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    ours = {name for name in loaded if name.startswith("enclave")}
    assert ours == {"enclave", "enclave.core"} | {f"enclave.core.{name}" for name in "address egress name rule".split()}
    assert [name for name in loaded if name.startswith("pydantic")] == []
