"""A journal's records as bytes: each says how long it is and carries a checksum, so that half of one is told from one.

    crc32 of what follows (4) | length of the text in bytes (4) | channel (1) | start (8) | microseconds (8) | text

all little-endian; the first record is of no channel, and its text says what the file is and whose. A checksum tells
damage, not malice: who can write the file can write what they like.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from enclave.store.base import Channel, Chunk

MAX_TEXT_BYTES: Final = 256 * 1024
"""The longest text of a record; a length above it is damage."""

_CRC: Final = struct.Struct("<I")
_HEAD: Final = struct.Struct("<IBQq")
_FRAME: Final = _CRC.size + _HEAD.size
_TITLE: Final = "enclave journal 1 "
_OWNER: Final = 0
_NUMBERS: Final[dict[Channel, int]] = {"stdout": 1, "stderr": 2}
_CHANNELS: Final[dict[int, Channel]] = {number: channel for channel, number in _NUMBERS.items()}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def opening(org_id: str) -> bytes:
    """The first record of a journal."""
    return _record(_OWNER, 0, 0, _TITLE + org_id)


def encode(chunks: Sequence[Chunk]) -> bytes:
    """The records of chunks."""
    return b"".join(
        [
            _record(_NUMBERS[chunk.channel], chunk.start, (chunk.ts - _EPOCH) // _MICROSECOND, chunk.text)
            for chunk in chunks
        ]
    )


def owner(data: bytes) -> str:
    """Whose journal it is that begins with these bytes; empty if it does not begin as one."""
    for number, _, _, text, _ in _records(data):
        return text.removeprefix(_TITLE) if number == _OWNER and text.startswith(_TITLE) else ""
    return ""


def decode(data: bytes) -> tuple[list[Chunk], int]:
    """The chunks in front of the first record that is not whole, and where that begins."""
    chunks: list[Chunk] = []
    whole = 0
    for number, start, microseconds, text, stop in _records(data):
        if number in _CHANNELS:
            chunks.append(Chunk(_CHANNELS[number], start, text, _EPOCH + microseconds * _MICROSECOND))
        elif number != _OWNER:
            break
        whole = stop
    return chunks, whole


def _record(number: int, start: int, microseconds: int, text: str) -> bytes:
    raw = text.encode()
    body = _HEAD.pack(len(raw), number, start, microseconds) + raw
    return _CRC.pack(zlib.crc32(body)) + body


def _records(data: bytes) -> Iterator[tuple[int, int, int, str, int]]:
    at = 0
    while len(data) - at >= _FRAME:
        length, number, start, microseconds = _HEAD.unpack_from(data, at + _CRC.size)
        stop = at + _FRAME + length
        body = data[at + _CRC.size : stop]
        if length > MAX_TEXT_BYTES or stop > len(data) or zlib.crc32(body) != _CRC.unpack_from(data, at)[0]:
            return
        yield number, start, microseconds, body[_HEAD.size :].decode(errors="replace"), stop
        at = stop
