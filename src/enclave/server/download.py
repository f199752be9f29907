"""A kept file as an answer: whatever is in it, a browser saves it and runs none of it."""

from collections.abc import Mapping
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from enclave.contracts.files import SessionFile
from enclave.orchestrator.orchestrator import Content


class Download:
    """A file, sent piece by piece as the client takes it; nothing but its head if the client has it already."""

    def __init__(self, file: SessionFile, content: Content, media: str) -> None:
        self._file = file
        self._content = content
        self._media = media

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            known = _names(scope, b"if-none-match", self._tag)
            await send(
                {"type": "http.response.start", "status": 304 if known else 200, "headers": self._headers(known)}
            )
            bare = known or scope["method"] == "HEAD"
            while piece := b"" if bare else await self._content.piece():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._content.close()

    @property
    def _tag(self) -> bytes:
        return f'"{self._file.sha256}"'.encode()

    def _headers(self, known: bool) -> list[tuple[bytes, bytes]]:
        name = quote(self._file.path.rsplit("/", 1)[-1], safe="")
        about: Mapping[bytes, bytes] = {
            b"content-type": self._media.encode(),
            b"content-length": str(self._file.bytes).encode(),
            # RFC 6266: the name in the extended notation, which has no character that could end the value.
            b"content-disposition": f"attachment; filename*=UTF-8''{name}".encode(),
        }
        return [(b"etag", self._tag), *(() if known else about.items())]


def _names(scope: Scope, header: bytes, tag: bytes) -> bool:
    given = [
        one.strip().removeprefix(b"W/")
        for name, value in scope["headers"]
        if name == header
        for one in value.split(b",")
    ]
    return tag in given or b"*" in given
