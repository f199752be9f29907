"""Where a webhook may go, by what its URL says."""

from ipaddress import ip_network

import pytest

from enclave.core.receiver import Receiver
from enclave.core.upstream import Malformed

PRIVATE = (ip_network("10.1.0.0/16"), ip_network("127.0.0.1/32"), ip_network("fd00:1::/64"))


@pytest.mark.parametrize(
    ("url", "form", "host", "port", "target"),
    [
        ("https://a.example", "https://a.example/", "a.example", 443, "/"),
        ("HTTPS://A.Example:443/", "https://a.example/", "a.example", 443, "/"),
        ("https://a.example./x/", "https://a.example/x/", "a.example", 443, "/x/"),
        ("https://a.example:8443?k=v?w", "https://a.example:8443/?k=v?w", "a.example", 8443, "/?k=v?w"),
        ("https://a.example/a/../b%2F//c;d", "https://a.example/a/../b%2F//c;d", "a.example", 443, "/a/../b%2F//c;d"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, "/"),
        ("https://93.184.215.14/", "https://93.184.215.14/", "93.184.215.14", 443, "/"),
        ("https://[2606:4700::1]:8443/", "https://[2606:4700::1]:8443/", "2606:4700::1", 8443, "/"),
        ("https://10.1.2.3/", "https://10.1.2.3/", "10.1.2.3", 443, "/"),
        ("http://127.0.0.1:9000/in", "http://127.0.0.1:9000/in", "127.0.0.1", 9000, "/in"),
        ("http://[fd00:1::9]/", "http://[fd00:1::9]/", "fd00:1::9", 80, "/"),
    ],
)
def test_a_url_has_one_form_in_which_it_is_checked(url: str, form: str, host: str, port: int, target: str) -> None:
    found = Receiver.parse(url, PRIVATE)

    assert (found.url, found.host, found.port, found.target) == (form, host, port, target)
    assert found.secure == form.startswith("https:")
    assert Receiver.parse(form, PRIVATE) == found


LOCAL = """
    127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.0.0.1 0177.0.0.1 017700000001 127.0.0.1. 0 0.0.0.0 00000000
    localhost LOCALHOST localhost. a.localhost localhost.localdomain ip6-localhost
    10.0.0.1 172.16.0.1 192.168.0.1 100.64.0.1 169.254.169.254 0xa9fea9fe 2852039166 169.254.169.254.
    168.63.129.16 100.100.100.200 192.0.0.192 224.0.0.1 240.0.0.1 255.255.255.255
    [::] [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:169.254.169.254] [::127.0.0.1]
    [64:ff9b::127.0.0.1] [64:ff9b::a9fe:a9fe] [64:ff9b::10.0.0.1] [64:ff9b:1::1] [2002:7f00:1::] [2001::1]
    [fe80::1] [fe80::1%25eth0] [fe80::1%eth0] [fd00::1] [fd00:ec2::254] [fec0::1] [ff02::1] [::ffff:0:127.0.0.1]
    [fd00:1::9] metadata.google.internal metadata.google.internal. METADATA a.metadata.google.internal
    instance-data.eu-west-1.compute.internal
""".split()


@pytest.mark.parametrize("host", LOCAL)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_no_writing_of_a_local_address_or_name_is_taken(scheme: str, host: str) -> None:
    with pytest.raises(Malformed):
        Receiver.parse(f"{scheme}://{host}/", ())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "//a.example",
        "https:a.example",
        "https:/a.example",
        "https:///x",
        "https://",
        "ftp://a.example",
        "file:///etc/passwd",
        "gopher://a.example",
        "javascript:alert(1)",
        "http://a.example",
        "http://93.184.215.14",
        "https://user@a.example",
        "https://user:s3cret@a.example",
        "https://a.example@127.0.0.1",
        "https://127.0.0.1#@a.example",
        "https://127.0.0.1\\@a.example",
        "https://a.example\\@127.0.0.1/",
        "https://a.example/#x",
        "https://a.example/?x#y",
        "https://a.example:0/",
        "https://a.example:00/",
        "https://a.example:65536/",
        "https://a.example:99999999999/",
        "https://a.example:-1/",
        "https://a.example:/",
        "https://a.example:x/",
        "https://a.example:443:443/",
        "https://a.example /",
        " https://a.example/",
        "https://a.example/\n",
        "https://a.example/\r\nHost: b",
        "https://a.example/\x00",
        "https://a.example/%",
        "https://a.example/%zz",
        "https://a.example/?<x>",
        "https://a.example/?%",
        "https://a..example/",
        "https://.a.example/",
        "https://a.example../",
        "https://-a.example/",
        "https://a_b.example/",
        "https://*.example/",
        "https://bücher.example/",
        "https://ⓛocalhost/",
        "https://１２７.0.0.1/",
        "https://a。example/",
        "https://[::1/",
        "https://::1/",
        "https://[127.0.0.1]/",
        "https://[v1.x]/",
        "https://1.2.3/",
        "https://1.2.3.4.5/",
        "https://256.1.1.1/",
        "https://a.1/",
        "https://a.0x1/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 127 + "example/",
    ],
)
def test_what_is_read_in_two_ways_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Malformed) as refused:
        Receiver.parse(url, PRIVATE)

    assert "s3cret" not in str(refused.value)
