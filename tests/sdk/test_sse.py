"""The reader of server-sent events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.sdk import sse
from enclave.sdk.sse import Decoder, Event, EventTooLarge

TEXT = (
    "id: 1\nevent: message\ndata: gr\u00fc\u00df\u2028e\n\n: ping\n\n"
    "id: 2\r\ndata:a\r\ndata: b\r\n\r\nid: 3\n\ndata\n\ndata: cut"
)
EVENTS = [Event("gr\u00fc\u00df\u2028e", "1"), Event("a\nb", "2"), Event("", "3"), Event("")]


@given(st.lists(st.integers(0, len(TEXT.encode())), max_size=8))
def test_it_does_not_matter_where_the_bytes_are_split(cuts: list[int]) -> None:
    data, decoder = TEXT.encode(), Decoder()
    edges = [0, *sorted(cuts), len(data)]

    found = [event for start, stop in pairwise(edges) for event in decoder.feed(data[start:stop])]

    assert found == EVENTS


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_break_it(pieces: list[bytes]) -> None:
    decoder = Decoder()

    assert all(isinstance(event, Event) for piece in pieces for event in decoder.feed(piece))


def test_an_event_without_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_CHARS", 100)
    decoder = Decoder()

    assert len(list(decoder.feed(b"data: " + b"x" * 80 + b"\n\n" + b"data: " + b"x" * 80 + b"\n\n"))) == 2
    with pytest.raises(EventTooLarge):
        list(decoder.feed(b"data: x\n" * 20))
