"""Questions to a name server, and answers, in the least of RFC 1035 that a stub resolver needs.

One question a message, names without compression, answers of addresses. Whatever else a message holds is not looked at.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

MAX_QUERY: Final = 512
A, AAAA = 1, 28
_IN: Final = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = 0, 1, 2, 3, 4, 5
_HEADER: Final = struct.Struct("!HHHHHH")
_TTL_SECONDS: Final = 30
_POINTER_TO_QUESTION: Final = 0xC00C


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; `name` in ASCII as it came, without the dot at the end, `raw` the question as it stands there."""

    id: int
    recursion: bool
    name: str
    kind: int
    raw: bytes


class Malformed(Exception):
    """It is no question that has an answer."""


def read_question(data: bytes) -> Question:
    """Read a query. Raises Malformed."""
    if not _HEADER.size < len(data) <= MAX_QUERY:
        raise Malformed
    id, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if flags & 0x8000 or flags >> 11 & 0xF or questions != 1 or answers:
        raise Malformed
    labels, at = _labels(data, _HEADER.size)
    if at + 4 > len(data):
        raise Malformed
    kind, family = struct.unpack_from("!HH", data, at)
    if family != _IN:
        raise Malformed
    return Question(id, bool(flags & 0x100), ".".join(labels), kind, data[_HEADER.size : at + 4])


def _labels(data: bytes, at: int) -> tuple[list[str], int]:
    labels: list[str] = []
    while True:
        if at >= len(data):
            raise Malformed
        length = data[at]
        at += 1
        if length == 0:
            break
        if length > 63 or at + length > len(data):
            raise Malformed
        labels.append(_label(data[at : at + length]))
        at += length
    if not labels or sum(len(label) + 1 for label in labels) > 254:
        raise Malformed
    return labels, at


def _label(raw: bytes) -> str:
    # A dot within a label, or a null byte, would be another name to whoever reads it as text.
    if not all(0x21 <= byte < 0x7F and byte != 0x2E for byte in raw):
        raise Malformed
    return raw.decode("ascii")


def answer(question: Question, code: int, addresses: Sequence[IPv4Address | IPv6Address] = ()) -> bytes:
    """A reply: with those of the addresses that are of the kind asked for."""
    kept = [address for address in addresses if question.kind == (A if address.version == 4 else AAAA)]
    flags = 0x8080 | (0x100 if question.recursion else 0) | code
    header = _HEADER.pack(question.id, flags, 1, len(kept), 0, 0)
    records = [
        struct.pack("!HHHIH", _POINTER_TO_QUESTION, question.kind, _IN, _TTL_SECONDS, len(address.packed))
        + address.packed
        for address in kept
    ]
    return header + question.raw + b"".join(records)


def refusal(data: bytes) -> bytes | None:
    """A reply to what was malformed; None if it is too short, or is a reply itself."""
    if len(data) < _HEADER.size or data[2] & 0x80:
        return None
    return _HEADER.pack(int.from_bytes(data[:2], "big"), 0x8080 | FORMAT_ERROR, 0, 0, 0, 0)
