"""Questions and answers, against an encoder and a decoder that share nothing with the reader that is tested."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.egress import dns
from enclave.egress.dns import Malformed, Question

HEADER = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
TAIL = b"\x00\x01\x00\x01"
NAME = b"\x03api\x07example\x00"


def encoded(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def query(name: str, kind: int = dns.A, number: int = 7, flags: int = 0x100) -> bytes:
    return struct.pack("!HHHHHH", number, flags, 1, 0, 0, 0) + encoded(name) + struct.pack("!HH", kind, 1)


def addresses_in(answer: bytes, question: bytes) -> list[IPv4Address | IPv6Address]:
    """The addresses of a reply, in full: nothing but what is counted follows the question, which is repeated."""
    assert answer[12 : 12 + len(question)] == question
    found, at = [], 12 + len(question)
    for _ in range(int.from_bytes(answer[6:8], "big")):
        pointer, _, family, seconds, length = struct.unpack_from("!HHHIH", answer, at)
        assert (pointer, family, seconds) == (0xC00C, 1, 30)
        found.append(ip_address(answer[at + 12 : at + 12 + length]))
        at += 12 + length
    assert at == len(answer)
    return found


labels = st.text(st.sampled_from("abcXYZ019-_"), min_size=1, max_size=63)
names = st.lists(labels, min_size=1, max_size=8).map(".".join).filter(lambda name: len(name) <= 253)
some = st.lists(st.ip_addresses(), max_size=8)


@given(names, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.booleans())
def test_a_question_is_read_as_it_was_asked(name: str, kind: int, number: int, recursion: bool) -> None:
    asked = query(name, kind, number, 0x100 if recursion else 0)

    assert dns.read_question(asked) == Question(number, recursion, name, kind, asked[12:])


@given(names, st.sampled_from([dns.A, dns.AAAA, 16, 65]), some, st.integers(0, 5))
def test_an_answer_holds_the_addresses_of_the_kind(
    name: str, kind: int, known: list[IPv4Address | IPv6Address], code: int
) -> None:
    asked = query(name, kind)

    answer = dns.answer(dns.read_question(asked), code, known)

    version = {dns.A: 4, dns.AAAA: 6}.get(kind)
    assert addresses_in(answer, asked[12:]) == [address for address in known if address.version == version]
    assert answer[:6] == struct.pack("!HHH", 7, 0x8180 | code, 1)
    assert answer[8:12] == bytes(4)
    assert len(answer) <= 512, "what a resolver takes that did not ask for more (RFC 1035, section 2.3.4)"


def test_what_follows_the_question_is_not_looked_at() -> None:
    edns = b"\0\0\x29\x10\0\0\0\0\0\0\0"
    asked = query("api.example")
    with_options = asked[:10] + b"\0\1" + asked[12:] + edns

    assert dns.read_question(with_options) == dns.read_question(asked)


def test_the_longest_name_is_read_and_a_longer_one_is_not() -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])

    assert dns.read_question(query(longest)).name == longest
    with pytest.raises(Malformed):
        dns.read_question(query(longest + "b"))


MALFORMED = {
    "nothing": b"",
    "a header only": HEADER,
    "too long": HEADER + NAME + TAIL + bytes(dns.MAX_QUERY),
    "a reply": b"\x12\x34\x81" + HEADER[3:] + NAME + TAIL,
    "a status request": b"\x12\x34\x11" + HEADER[3:] + NAME + TAIL,
    "no question": HEADER[:5] + b"\0" + HEADER[6:] + NAME + TAIL,
    "two questions": HEADER[:5] + b"\2" + HEADER[6:] + (NAME + TAIL) * 2,
    "an answer in it": HEADER[:7] + b"\1" + HEADER[8:] + NAME + TAIL,
    "the root": HEADER + b"\0" + TAIL,
    "a name without an end": HEADER + b"\x03api",
    "a label beyond the end": HEADER + b"\x3fapi\0" + TAIL,
    "a pointer": HEADER + b"\x03api\xc0\x0c" + TAIL,
    "a pointer to itself": HEADER + b"\xc0\x0c" + TAIL,
    "a label of a reserved kind": HEADER + b"\x40" + b"a" * 64 + b"\0" + TAIL,
    "a dot within a label": HEADER + b"\x05a.com\0" + TAIL,
    "a null byte within a label": HEADER + b"\x05api\0x\0" + TAIL,
    "a space": HEADER + b"\x03a b\0" + TAIL,
    "not ASCII": HEADER + b"\x03a\xc3\xa9\0" + TAIL,
    "no kind": HEADER + NAME + TAIL[:3],
    "another class": HEADER + NAME + b"\0\1\0\3",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_not_read(data: bytes) -> None:
    with pytest.raises(Malformed):
        dns.read_question(data)


def test_what_is_malformed_is_refused_without_a_word_of_it() -> None:
    assert dns.refusal(HEADER + b"\x3fapi") == b"\x12\x34\x80\x81" + bytes(8)


@pytest.mark.parametrize("data", [b"", HEADER[:11], b"\x12\x34\x80\x00" + bytes(8)])
def test_what_has_no_header_or_is_a_reply_is_not_answered(data: bytes) -> None:
    assert dns.refusal(data) is None


@given(st.binary(max_size=600) | st.binary(max_size=300).map(lambda data: HEADER + data), some)
def test_any_bytes_are_read_or_malformed(data: bytes, known: list[IPv4Address | IPv6Address]) -> None:
    try:
        question = dns.read_question(data)
    except Malformed:
        refused = dns.refusal(data)
        assert refused is None or len(refused) == 12
        return
    assert encoded(question.name) + question.raw[-4:] == question.raw
    addresses_in(dns.answer(question, 0, known), question.raw)
