"""What one server reads as a request for this host and another as one for that."""

import pytest

from enclave.egress import sniff

TWO_HOSTS = {
    "a line feed in the target": b"GET /\tHTTP/1.1\nHost:evil.test\nX: HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
    "a line feed behind a long method": b"X" * 32
    + b"\nHost:evil.test\nX: / HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
    "a tab in the target": b"GET /\tx HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
    "a zero byte in the target": b"GET /\0 HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
}


@pytest.mark.parametrize("sent", TWO_HOSTS.values(), ids=TWO_HOSTS.keys())
def test_a_request_line_is_read_in_one_way_only(sent: bytes) -> None:
    with pytest.raises(sniff.Unreadable):
        sniff.named(sent)
