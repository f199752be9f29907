"""HTTP at its rawest: what is kept of a request before anyone looks at it is bounded, and its errors are problems."""

from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from enclave.contracts.errors import InvalidRequest
from enclave.server import problems

MAX_HEAD_BYTES: Final = 64 * 1024
"""The most bytes of a request line and headers, and of what follows a body; beyond it the connection ends."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which would keep headers of any length, with an end to that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._steps = 0
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that complete nothing are counted."""
        before = self._steps
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._steps == before else 0
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(f"the headers are longer than {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """The head of a request is whole."""
        self._steps += 1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body, which whoever reads it bounds."""
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._steps += 1
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and end the connection."""
        self._refuse("the request is not valid HTTP/1.1")

    def _refuse(self, why: str) -> None:
        self.transport.write(_raw(problems.answer(InvalidRequest(why))))
        self.transport.close()


def _raw(response: Response) -> bytes:
    status = HTTPStatus(response.status_code)
    headers = [*response.raw_headers, (b"connection", b"close"), (b"x-content-type-options", b"nosniff")]
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *[name + b": " + value for name, value in headers]]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
