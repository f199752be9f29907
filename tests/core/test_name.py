"""One spelling of each host name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.core.name import is_broad, normalise_name, parents, unreachable
from tests.core.test_address import LEGACY, NUMERIC, legacy, refusal

LABELS = "labels of 1 to 63"
TWO_WAYS = "do not agree"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.Org", "example.org"),
        ("example.org.", "example.org"),
        ("db", "db"),
        ("1.example", "1.example"),
        ("0x1.example", "0x1.example"),
        ("a.0xyz", "a.0xyz"),
        ("r3---sn.example", "r3---sn.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("xn--fa-hia.de", "xn--fa-hia.de"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        ("a." * 126 + "b", "a." * 126 + "b"),
        ("a." * 126 + "b.", "a." * 126 + "b"),
    ],
)
def test_a_name_has_one_spelling(text: str, name: str) -> None:
    assert normalise_name(text) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 to 253"),
        (".", "1 to 253"),
        ("..", LABELS),
        ("example..", LABELS),
        (".example", LABELS),
        ("a..b", LABELS),
        ("-a.example", LABELS),
        ("a-.example", LABELS),
        ("-", LABELS),
        ("a_b.example", LABELS),
        ("a b.example", LABELS),
        (" example.org", LABELS),
        ("example.org\n", LABELS),
        ("example.org\0", LABELS),
        ("example.org\0.evil.example", LABELS),
        ("a\tb", LABELS),
        ("\x7f", LABELS),
        ("a/b", LABELS),
        ("a\\b", LABELS),
        ("a@b", LABELS),
        ("a%2eb", LABELS),
        ("a:80", LABELS),
        ("*.example.org", LABELS),
        ("[::1]", LABELS),
        ("a" * 64 + ".example", LABELS),
        ("a." * 127 + "b", "1 to 253"),
        ("x" * 100_000, "1 to 253"),
        ("ü" * 100_000, "1 to 253"),
        ("ü." * 126 + "b", "xn-- form"),
        ("example\u3002org", "ordinary dot"),
        ("example\uff0eorg", "ordinary dot"),
        ("example\uff61org", "ordinary dot"),
        ("faß.de", TWO_WAYS),
        ("ΣΊΣΥΦΟς.gr", TWO_WAYS),
        ("a\u200db.example", TWO_WAYS),
        ("a\u200cb.example", TWO_WAYS),
        ("a\u200bb.example", TWO_WAYS),
        ("a\u00adb.example", TWO_WAYS),
        ("a\u2060b.example", TWO_WAYS),
        ("\ufeffexample.org", TWO_WAYS),
        ("\uff45xample.org", TWO_WAYS),
        ("\u212a.example", TWO_WAYS),
        ("ⓔxample.org", TWO_WAYS),
        ("½.example", TWO_WAYS),
        ("u\u0308.example", TWO_WAYS),
        ("１２７.0.0.1", TWO_WAYS),
        ("a\u00a0b.example", TWO_WAYS),
        ("a\u202eb.example", "not IDNA"),
        ("ü" * 64 + ".example", "not IDNA"),
        ("\ud800.example", "not IDNA"),
        ("1", "number"),
        ("1.", "number"),
        ("127.1", "number"),
        ("127.0.0.1", "number"),
        ("127.0.0.1.", "number"),
        ("example.1", "number"),
        ("0x7f", "number"),
        ("a.0x", "number"),
        ("a.0X7F", "number"),
        ("0177.1", "number"),
    ],
)
def test_whatever_is_odd_is_no_name(text: str, message: str) -> None:
    assert message in (refusal(normalise_name, text) or "it is taken")


NAMELIKE = st.one_of(
    st.text(max_size=300),
    st.lists(st.text("aZ0-x_üßς\u200d\u212a\uff0e。*é", max_size=8), max_size=6).map(".".join),
    st.from_regex(r"(?i)([a-z0-9-]{1,10}\.){0,4}[a-z0-9-]{1,10}\.?", fullmatch=True),
)


@given(NAMELIKE)
def test_any_text_is_a_name_in_its_one_spelling_or_refused_in_one_line(text: str) -> None:
    if message := refusal(normalise_name, text):
        assert re.fullmatch(r"[ -~]+", message)
        return
    name = normalise_name(text)
    assert normalise_name(name) == normalise_name(f"{name}.") == normalise_name(name.upper()) == name
    assert re.fullmatch(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= 253
    assert max(map(len, name.split("."))) <= 63


@given(NUMERIC | st.sampled_from(LEGACY))
def test_what_the_c_library_takes_for_an_address_is_no_name(text: str) -> None:
    if legacy(text) is not None:
        assert refusal(normalise_name, text)


METADATA = """
    metadata metadata.google.internal metadata.goog instance-data instance-data.ec2.internal metadata.azure.internal
    metadata.azure.com metadata.tencentyun.com api.metadata.cloud.ibm.com metadata.platformequinix.com rancher-metadata
    instance-data.eu-west-1.compute.internal x.metadata.google.internal
""".split()


@pytest.mark.parametrize("name", METADATA)
def test_a_metadata_service_is_never_resolved(name: str) -> None:
    assert unreachable(name) == "is a cloud's metadata service"


@pytest.mark.parametrize(
    "name", ["localhost", "a.localhost", "a.b.localhost", "ip6-localhost", "localhost.localdomain"]
)
def test_the_machine_itself_is_never_resolved(name: str) -> None:
    assert unreachable(name) == "is the machine itself"


@pytest.mark.parametrize("name", ["example.org", "google.internal", "metadata.example.org", "localhost.example.org"])
def test_other_names_may_be_resolved(name: str) -> None:
    assert unreachable(name) is None


def test_the_parents_of_a_name_are_all_it_lies_below() -> None:
    assert parents("a.b.example.org") == ["b.example.org", "example.org", "org"]
    assert parents("org") == []


@pytest.mark.parametrize("name", ["com", "uk", "xn--p1ai", "co.uk", "com.au", "ac.jp", "org.br", "gov.in", "gob.mx"])
def test_what_is_everybodys_is_broad(name: str) -> None:
    assert is_broad(name)


@pytest.mark.parametrize("name", ["example.com", "bbc.co.uk", "co.com", "x.de", "a.uk"])
def test_what_is_somebodys_is_not(name: str) -> None:
    assert not is_broad(name)
