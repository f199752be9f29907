"""Whether a descriptor has something to be taken: asked before anything is, for the kernel may wait without end."""

import os

import pytest

from enclave.egress.notification import Over, waits


def test_a_descriptor_waits_when_there_is_something_and_is_over_when_there_never_will_be() -> None:
    # A pipe whose writer is gone is to poll(2) what a listener is whose last program is gone.
    reader, writer = os.pipe()
    try:
        assert not waits(reader)
        os.write(writer, b"x")
        assert waits(reader)
        os.close(writer)
        assert waits(reader)
        os.read(reader, 1)
        with pytest.raises(Over):
            waits(reader)
    finally:
        os.close(reader)
