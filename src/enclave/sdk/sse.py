"""Server-sent events, read from bytes as they come.

httpx2 has a reader of its own, but one that owns the connection: it can be neither shared by a blocking and an async
driver nor watched for a deadline between two bytes.
"""

from codecs import getincrementaldecoder
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# A result frame may hold 16 MiB each of stdout and stderr, and JSON may spend six characters on one.
MAX_EVENT_CHARS: Final = 256 * 1024 * 1024


class EventTooLarge(ValueError):
    """An event is larger than any that a server sends."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is None if it has none of its own."""

    data: str
    id: str | None = None


class Decoder:
    """Bytes in, whole events out: what a broken connection cut short never comes out."""

    def __init__(self) -> None:
        self._decode = getincrementaldecoder("utf-8-sig")("replace").decode
        self._tail: list[str] = []
        self._data: list[str] = []
        self._id: str | None = None
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete. Raises EventTooLarge."""
        first, *rest = self._decode(data).split("\n")
        self._keep(first)
        for text in rest:
            yield from self._line("".join(self._tail).removesuffix("\r"))
            self._tail.clear()
            self._keep(text)

    def _keep(self, text: str) -> None:
        self._tail.append(text)
        self._size += len(text)
        if self._size > MAX_EVENT_CHARS:
            raise EventTooLarge

    def _line(self, line: str) -> Iterator[Event]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            yield from self._flush()
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value or None

    def _flush(self) -> Iterator[Event]:
        if self._data or self._id:
            yield Event("\n".join(self._data), self._id)
        self._data, self._id, self._size = [], None, 0
