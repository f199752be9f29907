"""What the kernel tells of a socket that somebody else holds."""

import socket

from enclave.egress.address import Internet
from enclave.egress.caller import cookie_of
from enclave.egress.sockdiag import Closed, identity_of, measure


def test_a_connection_is_measured_and_none_that_only_looks_like_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as mine:
        target = Internet(socket.inet_aton("127.0.0.1"), listener.getsockname()[1])
        which = identity_of(mine, target)
        with listener.accept()[0] as other:
            other.sendall(b"x" * 11)
            assert mine.recv(11, socket.MSG_WAITALL) == b"x" * 11
            mine.sendall(b"y" * 7)
            assert other.recv(7, socket.MSG_WAITALL) == b"y" * 7

            assert which.cookie == cookie_of(mine)
            assert measure(which) == Closed(which.cookie, 7, 11)
            gone = type(which)(which.family, which.source, which.target, which.ports, which.cookie + 1)
            assert measure(gone) is None
