"""The addresses of upstreams: one form for each, and nothing that can be read in two ways."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.core.address import may_call
from enclave.core.upstream import Malformed, path_prefix, upstream

PRIVATE = (ip_network("127.0.0.0/8"), ip_network("10.1.0.0/16"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://api.example.org", "https://api.example.org"),
        ("HTTPS://API.Example.org/", "https://api.example.org"),
        ("https://api.example.org.:443/v1/", "https://api.example.org/v1"),
        ("https://api.example.org:8443/v1/a%2bb;x=1", "https://api.example.org:8443/v1/a%2Bb;x=1"),
        ("https://api.example.org:0443", "https://api.example.org"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://93.184.216.34", "https://93.184.216.34"),
        ("https://[2606:2800:220:1:248:1893:25C8:1946]:1", "https://[2606:2800:220:1:248:1893:25c8:1946]:1"),
    ],
)
def test_an_upstream_has_one_form(given: str, normal: str) -> None:
    assert upstream(given, ()) == normal
    assert upstream(normal, ()) == normal


@pytest.mark.parametrize(
    "url",
    [
        "", "https://", "https:///x", "api.example.org", "ftp://a.example", "https:a.example", "https//a.example",
        "https://user@a.example", "https://user:s3cret@a.example", "https://@a.example", "https://a.example@b.example",
        "https://a.example?x", "https://a.example/?key=s3cret", "https://a.example#x", "https://a.example/#",
        "https://a.example:0", "https://a.example:65536", "https://a.example:", "https://a.example:x",
        "https://a.example:-1", "https://a.example:+1", "https://a.example:1:2", "https://a.example:999999999999",
        "https://a.example\\@b.example", "https://a.example\n", "https://a.example/\r\nHost:x", "https://a .example",
        "https://a.example/ b", "https://a.example/\x00", "https://\u0430.example", "https://a.example/\u2025",
        "https://a..example", "https://-a.example", "https://a_b.example", "https://" + "a" * 64 + ".example",
        "https://%61.example", "https://a.example%2f", "https://[::1", "https://::1", "https://[fe80::1%25eth0]",
        "https://[1.2.3.4]", "https://1.2.3", "https://2130706433", "https://0x7f000001", "https://0177.0.0.1",
        "https://127.1", "https://1.2.3.0x4", "https://1.2.3.04", "https://\uff11.2.3.4",
        "https://a.example/..", "https://a.example/./b", "https://a.example/a/../b", "https://a.example/a/%2e%2E/b",
        "https://a.example/%2E", "https://a.example/.%2e", "https://a.example/a%2fb", "https://a.example/a%5cb",
        "https://a.example/a%252e", "https://a.example/..;/b", "https://a.example//b", "https://a.example/b//",
        "https://a.example/%00", "https://a.example/%0d%0a", "https://a.example/%c0%ae", "https://a.example/%",
        "https://a.example/%zz", "https://a.example/<b>", "https://a.example/{b}", 'https://a.example/"',
    ],
)  # fmt: skip
def test_what_is_no_upstream_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Malformed) as refused:
        upstream(url, ())
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.255.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "169.254.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200",
        "[::1]", "[::]", "[fe80::1]", "[fd00:ec2::254]", "[fd12::1]", "[ff02::1]", "[fec0::1]", "[::127.0.0.1]",
        "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b::10.1.2.3]", "[2002:a9fe:a9fe::1]", "[2002:7f00:1::]",
        "localhost", "LOCALHOST.", "a.localhost",
    ],
)  # fmt: skip
def test_without_leave_no_address_is_anything_but_public(host: str) -> None:
    with pytest.raises(Malformed):
        upstream(f"https://{host}", ())


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "[fd12::1]", "[::ffff:127.0.0.1]"])
def test_with_leave_a_private_address_is_taken_over_https(host: str) -> None:
    upstream(f"https://{host}:8443", PRIVATE)


@pytest.mark.parametrize(
    "text",
    ["169.254.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "224.0.0.1", "255.255.255.255",
     "fe80::1", "fd00:ec2::254", "ff02::1", "::", "64:ff9b::10.1.2.3", "2002:a9fe:a9fe::1"],
)  # fmt: skip
def test_for_some_addresses_nobody_can_give_leave(text: str) -> None:
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))

    assert not may_call(ip_address(text), everything)
    assert not may_call(ip_address(text if ":" in text else f"::ffff:{text}"), everything)


@pytest.mark.parametrize("host", ["a.example", "93.184.216.34", "10.2.0.1", "localhost"])
def test_plain_http_is_for_permitted_addresses_alone(host: str) -> None:
    with pytest.raises(Malformed):
        upstream(f"http://{host}/x", PRIVATE)
    assert upstream("http://10.1.0.1:80/x", PRIVATE) == "http://10.1.0.1/x"
    assert upstream("http://127.0.0.1:9000", PRIVATE) == "http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("given", "normal"), [("/", "/"), ("/v1", "/v1"), ("/v1/", "/v1"), ("/a.b/...", "/a.b/..."), ("/%7e", "/%7E")]
)
def test_a_prefix_has_one_form(given: str, normal: str) -> None:
    assert path_prefix(given) == normal


@pytest.mark.parametrize(
    "path", ["", "v1", "*", "//", "/a//b", "/..", "/a/.", "/%2e%2e/", "/a?b", "/a#b", "/a b", "/\n"]
)
def test_what_is_no_prefix_is_refused(path: str) -> None:
    with pytest.raises(Malformed):
        path_prefix(path)


@given(st.text(max_size=40) | st.text("/.%2eE5cfF;:@[]ab01?#\\", max_size=40).map("https://".__add__))
def test_whatever_is_taken_is_in_its_one_form_already(url: str) -> None:
    try:
        normal = upstream(url, PRIVATE)
    except Malformed:
        return
    assert upstream(normal, PRIVATE) == normal
    assert not any(part in ("", ".", "..") for part in normal.partition("://")[2].split("/")[1:])
