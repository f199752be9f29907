"""The result channel against bytes nobody vouches for."""

from hypothesis import given
from hypothesis import strategies as st

from enclave.backends.local.channel import MAX_TOTAL_BYTES, ResultChannel
from enclave.contracts.sessions import MAX_RESULT_BYTES


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def feed(pieces: list[bytes]) -> tuple[bytes | None, str | None]:
    channel = ResultChannel()
    for piece in pieces:
        channel.feed(piece)
    return channel.close()


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1), st.lists(st.integers(1, 50)))
def test_the_last_value_counts_however_the_bytes_are_cut(values: list[bytes], cuts: list[int]) -> None:
    data, pieces = b"".join(map(frame, values)), []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]

    assert feed([*pieces, data]) == (values[-1], None)


@given(st.lists(st.binary(max_size=100)))
def test_any_bytes_are_survived_and_little_is_kept(pieces: list[bytes]) -> None:
    value, error = feed(pieces)

    assert value is None or error is None
    assert value is None or len(value) <= MAX_RESULT_BYTES


def test_nothing_sent_is_no_value_and_no_error() -> None:
    assert feed([]) == (None, None)


def test_a_value_over_the_limit_is_refused_from_its_length_alone() -> None:
    value, error = feed([(MAX_RESULT_BYTES + 1).to_bytes(4, "little"), b"x" * 10, frame(b"1")])

    assert value is None
    assert error == f"the value is {MAX_RESULT_BYTES + 1} bytes of JSON; at most {MAX_RESULT_BYTES} are taken"


def test_an_empty_value_is_refused() -> None:
    assert feed([frame(b"")] * 3) == (None, f"the value is 0 bytes of JSON; at most {MAX_RESULT_BYTES} are taken")


def test_values_without_end_are_refused() -> None:
    value, error = feed([frame(b"x" * MAX_RESULT_BYTES)] * 9)

    assert (value, error) == (None, f"more than {MAX_TOTAL_BYTES} bytes of results were handed over")


def test_a_value_cut_short_is_an_error() -> None:
    assert feed([frame(b"123")[:-1]]) == (None, "the value was cut short")


def test_a_whole_value_outlives_a_cut_one() -> None:
    assert feed([frame(b"1"), frame(b"22")[:-1]]) == (b"1", None)
