"""The status bytes of a sandbox, which hostile code may write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.sandbox.init import Status, read_status
from enclave.sandbox.launcher import _exit_code


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"R", Status(ready=True)),
        (b"RX\x00\x89\x00\x00", Status(ready=True, ended=0x8900)),
        (b"X\x09\x00\x00\x00", Status(ended=9)),
        (b"Eno", Status(failure="no")),
        (b"X\x00", Status()),
        (b"", Status()),
    ],
)
def test_each_message_is_what_it_says(message: bytes, expected: Status) -> None:
    assert read_status(message) == expected


@given(st.binary(max_size=64))
def test_any_bytes_are_read_and_only_a_lone_ready_goes_on(message: bytes) -> None:
    status = read_status(message)

    assert status.over == (message != b"R")
    assert status.ended is None or -128 < _exit_code(status.ended) < 256
