"""A session's output page by page, while it runs and after it."""

from dataclasses import dataclass
from typing import Final

from enclave.contracts.logs import LogEntry
from enclave.contracts.wire import Page
from enclave.core.cursor import log_cursor
from enclave.orchestrator.transcript import Transcript, rest_of
from enclave.store.base import Channel

MAX_PAGE_CHARS: Final = 256 * 1024
"""The most characters of one page, but for a single entry that has more."""


@dataclass(frozen=True, slots=True)
class Pages:
    """What a transcript has behind so many characters of each channel."""

    transcript: Transcript
    stdout: int
    stderr: int

    async def first(self, limit: int) -> Page[LogEntry]:
        """At most so many entries. `next_cursor` is null at the end of a session that is over."""
        sent: dict[Channel, int] = {"stdout": self.stdout, "stderr": self.stderr}
        entries: list[LogEntry] = []
        room, place, over = MAX_PAGE_CHARS, 0, self.transcript.over
        while (read := await self.transcript.read(place))[0]:
            place = read[1]
            for chunk in read[0]:
                if (rest := rest_of(chunk, sent)) is None:
                    continue
                room -= len(rest.text)
                if len(entries) == limit or (entries and room < 0):
                    return Page[LogEntry](items=tuple(entries), next_cursor=_cursor(sent))
                sent[rest.channel] = rest.stop
                entries.append(LogEntry(channel=rest.channel, text=rest.text, offset=rest.start, ts=rest.ts))
        return Page[LogEntry](items=tuple(entries), next_cursor=None if over else _cursor(sent))


def _cursor(sent: dict[Channel, int]) -> str:
    return log_cursor(sent["stdout"], sent["stderr"])
