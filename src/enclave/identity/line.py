"""HTTP to an identity service of its own: what is asked there, and what is relayed to it."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import ValidationError

from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.introspection import CLIENT_HEADER, SERVICE_CHALLENGE, SERVICE_HEADER
from enclave.contracts.wire import Wire
from enclave.identity.base import Answered, Asked

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 1.0
RELAY_SECONDS: Final = 10.0
"""A sign-in waits for its turn to be hashed."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

_RETURNED: Final = ("content-type", "retry-after", "www-authenticate", "location")
_LOST: Final = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError, httpx2.CloseError)
"""What a kept connection ends with whose other side was restarted."""
_FAILURES: Final = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL)

W = TypeVar("W", bound=Wire)


class Line:
    """Requests of a control plane to its identity service. Each raises Unavailable if that is not answering, answers
    5xx, or knows the credential of this control plane not."""

    def __init__(self, url: str, key: str) -> None:
        self._key = key
        self._client = httpx2.AsyncClient(**_place(url), trust_env=False, limits=httpx2.Limits(max_connections=None))

    async def ask(self, path: str, body: Wire, kind: type[W], within: float = ANSWER_SECONDS) -> W:
        """What is answered to a question that may be asked twice; reading may take so many seconds."""
        request = self._client.build_request(
            "POST",
            path,
            content=body.model_dump_json(),
            headers={"authorization": f"Bearer {self._key}"},
            timeout=httpx2.Timeout(CONNECT_SECONDS, read=within),
        )
        try:
            # All of it: one who answers byte by byte is never late to a single one.
            async with asyncio.timeout(CONNECT_SECONDS + within):
                answered = await self._twice(request)
        except TimeoutError as error:
            raise _silent(error) from None
        if answered.status != httpx2.codes.OK:
            raise Unavailable(f"the identity service answers {answered.status}", retry_after=1)
        try:
            return kind.model_validate_json(answered.body)
        except ValidationError as error:
            # Without its input, which may be what an org's trail is to tell.
            problems = error.errors(include_input=False, include_url=False, include_context=False)
            raise Unavailable(f"the identity service answers what is not understood: {problems[:3]}") from None

    async def relay(self, asked: Asked) -> Answered:
        """What an operation is answered with there. It is sent once: it may have been done although this raises. Raises
        InvalidRequest for what cannot be asked for."""
        headers = {SERVICE_HEADER: self._key, CLIENT_HEADER: asked.address}
        if asked.credential is not None:
            headers["authorization"] = f"Bearer {asked.credential}"
        try:
            request = self._client.build_request(
                asked.method,
                asked.target,
                content=asked.body,
                headers=headers,
                timeout=httpx2.Timeout(CONNECT_SECONDS, read=RELAY_SECONDS),
            )
        except httpx2.InvalidURL:
            raise InvalidRequest("the path and query are too long") from None
        return await self._told(request)

    async def close(self) -> None:
        """Drop all connections."""
        await self._client.aclose()

    async def _twice(self, request: httpx2.Request) -> Answered:
        try:
            return await self._send(request)
        except _LOST:
            return await self._told(request)
        except _FAILURES as error:
            raise _silent(error) from None

    async def _told(self, request: httpx2.Request) -> Answered:
        try:
            return await self._send(request)
        except _FAILURES as error:
            raise _silent(error) from None

    async def _send(self, request: httpx2.Request) -> Answered:
        response = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise Unavailable("the identity service answers too much")
        finally:
            await response.aclose()
        if response.headers.get("www-authenticate") == SERVICE_CHALLENGE:
            raise Unavailable("the identity service refuses the credential of this control plane: see its service.json")
        return Answered(response.status_code, _named(response.headers), bytes(body))


def _place(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return {"base_url": "http://identity", "transport": httpx2.AsyncHTTPTransport(uds=parts.path)}
    # The system's certificates take long to load: only where they matter.
    verify = {} if parts.scheme == "https" else {"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}
    return {"base_url": url, **verify}


def _named(headers: httpx2.Headers) -> Mapping[str, str]:
    return {name: headers[name] for name in _RETURNED if name in headers}


def _silent(error: Exception) -> Unavailable:
    reason = "in time" if isinstance(error, httpx2.TimeoutException | TimeoutError) else f"({type(error).__name__})"
    return Unavailable(f"the identity service does not answer {reason}", retry_after=1)
