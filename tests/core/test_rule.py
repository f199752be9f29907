"""What a rule may say."""

import re
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.core.name import normalise_name
from enclave.core.rule import ALL_PORTS, CidrRule, NameRule, Ports, parse_rule
from tests.core.test_address import LEGACY, NUMERIC, legacy, refusal


@pytest.mark.parametrize(
    ("text", "network", "ports"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", ALL_PORTS),
        ("10.1.2.3", "10.1.2.3/32", ALL_PORTS),
        ("10.1.2.3:1", "10.1.2.3/32", Ports(1, 1)),
        ("10.0.0.0/8:5432", "10.0.0.0/8", Ports(5432, 5432)),
        ("10.0.0.0/8:8000-8099", "10.0.0.0/8", Ports(8000, 8099)),
        ("0.0.0.0/0", "0.0.0.0/0", ALL_PORTS),
        ("0.0.0.0/0:1-65535", "0.0.0.0/0", ALL_PORTS),
        ("::/0", "::/0", ALL_PORTS),
        ("::1", "::1/128", ALL_PORTS),
        ("2001:db8::/32", "2001:db8::/32", ALL_PORTS),
        ("2001:DB8:0::1", "2001:db8::1/128", ALL_PORTS),
        ("2001:db8::1:443", "2001:db8::1:443/128", ALL_PORTS),
        ("[2001:db8::1]", "2001:db8::1/128", ALL_PORTS),
        ("[2001:db8::1]:443", "2001:db8::1/128", Ports(443, 443)),
        ("[2001:db8::/32]:443-444", "2001:db8::/32", Ports(443, 444)),
        ("[::/0]:443", "::/0", Ports(443, 443)),
        ("169.254.169.254", "169.254.169.254/32", ALL_PORTS),
    ],
)
def test_a_rule_on_addresses(text: str, network: str, ports: Ports) -> None:
    assert parse_rule(text) == CidrRule(text, ip_network(network), ports)


@pytest.mark.parametrize(
    ("text", "name", "wildcard", "ports"),
    [
        ("example.org", "example.org", False, ALL_PORTS),
        ("Example.org.:443", "example.org", False, Ports(443, 443)),
        ("example.org:1000-2000", "example.org", False, Ports(1000, 2000)),
        ("a-b.example:65535", "a-b.example", False, Ports(65535, 65535)),
        ("db", "db", False, ALL_PORTS),
        ("*.example.org", "example.org", True, ALL_PORTS),
        ("*.EXAMPLE.org:8080", "example.org", True, Ports(8080, 8080)),
        ("*.bbc.co.uk", "bbc.co.uk", True, ALL_PORTS),
        ("*.google.internal", "google.internal", True, ALL_PORTS),
        ("*.bücher.example", "xn--bcher-kva.example", True, ALL_PORTS),
    ],
)
def test_a_rule_on_names(text: str, name: str, wildcard: bool, ports: Ports) -> None:
    assert parse_rule(text) == NameRule(text, name, wildcard, ports)


DOTTED = "write an IPv4 address as four decimal numbers from 0 to 255 without leading zeros"
SIXTH = "write an IPv6 address as RFC 4291 has it, such as 2001:db8::1"
LABELS = "a name is labels of 1 to 63 letters, digits and inner hyphens, with dots between them"
PORT = "a port is a number from 1 to 65535, or two with a hyphen: 8000-8099"
BRACKETS = "brackets are for IPv6 alone: [2001:db8::/32]:443"
ASTERISK = "write *.example.org, one asterisk for all that is below; name the domain"
TWO_WAYS = "IDNA 2003 and 2008 do not agree on a label; write its xn-- form"
REFUSED = {
    "10.0.0.1/8": "the address has bits beyond the length; write 10.0.0.0/8",
    "10.0.0.1/8:443": "the address has bits beyond the length; write 10.0.0.0/8",
    "2001:db8::1/32": "the address has bits beyond the length; write 2001:db8::/32",
    "10.0.0.0/33": "write the length of a CIDR as a number from 0 to 32",
    "10.0.0.0/": "write the length of a CIDR as a number from 0 to 32",
    "10.0.0.0/08": "write the length of a CIDR as a number from 0 to 32",
    "10.0.0.0/+8": "write the length of a CIDR as a number from 0 to 32",
    "10.0.0.0/８": "write the length of a CIDR as a number from 0 to 32",
    "10.0.0.0/8/8": "write the length of a CIDR as a number from 0 to 32",
    "10.0.0.0/255.0.0.0": "write the length of a CIDR as a number from 0 to 32",
    "10.0.0.0/0.255.255.255": "write the length of a CIDR as a number from 0 to 32",
    "2001:db8::/129": "write the length of a CIDR as a number from 0 to 128",
    "::ffff:10.0.0.1": "write IPv4 as itself: 10.0.0.1/32",
    "::ffff:10.0.0.0/104": "write IPv4 as itself: 10.0.0.0/8",
    "[::ffff:a00:1]:443": "write IPv4 as itself: 10.0.0.1/32",
    "::ffff:0:0/96": "write IPv4 as itself: 0.0.0.0/0",
    "fe80::1%eth0": "write the address without its zone id",
    "[fe80::1%25eth0]:1": "write the address without its zone id",
    "10.0.0.256": DOTTED,
    "10.0.0": DOTTED,
    "10.0.0.0.0": DOTTED,
    "10/8": DOTTED,
    "010.0.0.0/8": DOTTED,
    "1234": DOTTED,
    "example.123": DOTTED,
    "127.0.0.1.": DOTTED,
    "0x7f.1:80": DOTTED,
    "2001:db8:::1": SIXTH,
    "2001:db8::1::": SIXTH,
    "2001:db8::/32:443": "write IPv6 with a port in brackets: [2001:db8::/32]:443",
    "[2001:db8::1": BRACKETS,
    "[2001:db8::1]443": BRACKETS,
    "[10.0.0.1]:443": BRACKETS,
    "[example.org]:443": BRACKETS,
    "[]": BRACKETS,
    "[]:443": BRACKETS,
    "[2001:db8::1]:0": PORT,
    "[2001:db8::1]:": PORT,
    "[2001:db8::1]:443/24": PORT,
    "example.com:": PORT,
    "example.com:0": PORT,
    "example.com:65536": PORT,
    "example.com:443443": PORT,
    "example.com:0443": PORT,
    "example.com:+1": PORT,
    "example.com: 1": PORT,
    "example.com:１": PORT,
    "example.com:-1": PORT,
    "example.com:1-": PORT,
    "example.com:2-1": PORT,
    "example.com:1-2-3": PORT,
    "example.com:1-65536": PORT,
    "example.com:*": PORT,
    "example.com:443\n": PORT,
    "example.com:80:80": SIXTH,
    "http://example.com": "write a host, not a URL",
    "https://example.com:443/path": "write a host, not a URL",
    "example.com/path": "write a host without a path",
    "example.com/24": "write a host without a path",
    "*.example.com/24": "write a host without a path",
    "": "a name has 1 to 253 characters",
    "*.": "a name has 1 to 253 characters",
    " ": LABELS,
    " example.com": LABELS,
    "example.com\n": LABELS,
    "example.com\0": LABELS,
    "user@example.com": LABELS,
    "example.com\\x": LABELS,
    "example%2ecom": LABELS,
    ".example": LABELS,
    "a..b": LABELS,
    "-a.example": LABELS,
    "a-.example": LABELS,
    "a_b.example": LABELS,
    "a.*.example": LABELS,
    "a*.example.org": LABELS,
    "a" * 64 + ".example": LABELS,
    "a." * 127 + "example": "a name has 1 to 253 characters",
    "example。com": "write an ordinary dot between labels",
    "faß.de": TWO_WAYS,
    "a\u200db.example": TWO_WAYS,
    "exam\u200bple.com": TWO_WAYS,
    "*": ASTERISK,
    "*:443": ASTERISK,
    "**.example.org": ASTERISK,
    "*.*.example.org": ASTERISK,
    "*example.org": ASTERISK,
    "*.com": "*.com is too broad; name the domain: *.example.com",
    "*.com.": "*.com is too broad; name the domain: *.example.com",
    "*.CO.uk:443": "*.co.uk is too broad; name the domain: *.example.co.uk",
    "*.xn--p1ai": "*.xn--p1ai is too broad; name the domain: *.example.xn--p1ai",
    "*.db": "*.db is too broad; name the domain: *.example.db",
    "*.10.0.0.1": DOTTED,
    "*.10.0.0.0/8": DOTTED,
    "*.::1": SIXTH,
    "localhost": "localhost is the machine itself, which no rule can open",
    "LOCALHOST.:80": "localhost is the machine itself, which no rule can open",
    "*.localhost": "localhost is the machine itself, which no rule can open",
    "app.localhost": "app.localhost is the machine itself, which no rule can open",
    "metadata": "metadata is a cloud's metadata service, which no rule can open",
    "metadata.google.internal:80": "metadata.google.internal is a cloud's metadata service, which no rule can open",
    "*.metadata.google.internal": "metadata.google.internal is a cloud's metadata service, which no rule can open",
    "Instance-Data": "instance-data is a cloud's metadata service, which no rule can open",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_a_rule_that_is_none_says_what_to_write(text: str, message: str) -> None:
    assert refusal(parse_rule, text) == message


FRAGMENT = st.one_of(
    st.sampled_from(
        [*LEGACY, *REFUSED, "example.org", "*.", "10.0.0.0/8", "::", "[", "]", ":443", "/", "-", "::ffff:"]
    ),
    st.ip_addresses(network="::ffff:0:0/96").map(str),
    st.ip_addresses().map(str),
    st.text(max_size=5),
)
RULELIKE = st.one_of(st.text(max_size=300), st.lists(FRAGMENT, max_size=5).map("".join))


@given(RULELIKE)
def test_any_text_is_a_rule_or_refused_in_one_line(text: str) -> None:
    if message := refusal(parse_rule, text):
        assert re.fullmatch(r"[ -~]+", message)
        return
    rule = parse_rule(text)
    assert rule.text == text
    assert parse_rule(text) == rule
    assert 1 <= rule.ports.first <= rule.ports.last <= 65535
    match rule:
        case NameRule(name=name):
            assert normalise_name(name) == name
        case CidrRule(network=network):
            written = f"[{network}]" if network.version == 6 else str(network)
            assert parse_rule(f"{written}:{rule.ports.first}-{rule.ports.last}") == CidrRule(
                f"{written}:{rule.ports.first}-{rule.ports.last}", network, rule.ports
            )


@given(NUMERIC | st.sampled_from(LEGACY))
def test_what_the_c_library_takes_for_an_address_is_that_address_or_refused(text: str) -> None:
    packed = legacy(text)
    if packed is not None and refusal(parse_rule, text) is None:
        rule = parse_rule(text)
        assert isinstance(rule, CidrRule)
        assert (rule.network.network_address.packed, rule.network.prefixlen) == (packed, 32)


def test_ports_cover_what_lies_within_them() -> None:
    assert Ports(80, 443).covers(Ports(80, 443))
    assert not Ports(80, 443).covers(Ports(79, 443))
    assert not Ports(80, 443).covers(Ports(80, 444))
