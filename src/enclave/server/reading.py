"""What a request says, read with bounds: its body, its preference, its query."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from enclave.contracts.errors import FieldProblem, InvalidRequest, QuotaExceeded
from enclave.contracts.sessions import Phase
from enclave.contracts.wire import SESSION_ID, Wire
from enclave.core.claim import HEADER
from enclave.core.cursor import MAX_PAGE
from enclave.core.weight import weight
from enclave.orchestrator.orchestrator import Filter
from enclave.server.problems import refusal, shortened

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Room for a program, and the most of files in base64."""
MAX_BODY_WEIGHT: Final = 20_000
"""How many elements a body may have, an array or object counted as four; no sound one has a tenth of it."""
ROOM_BYTES: Final = 8 * MAX_BODY_BYTES
"""What bodies may take together while they are being read, beyond what is small of each."""
SMALL_BYTES: Final = 64 * 1024
"""Of every body so much takes no room, so that who sends little is not refused for those who send much. It is all that
is read of who shows no credential, and of what is for the identity authority."""
ARRIVAL_SECONDS: Final = 60.0
"""How long a body may take to arrive; who stops in the middle would keep others' room."""
MAX_WAIT_SECONDS: Final = 300
DEFAULT_PAGE: Final = 50

_SESSION: Final = re.compile(SESSION_ID)

W = TypeVar("W", bound=Wire)


class Room:
    """The memory that there is for the bodies of requests, of all callers together."""

    def __init__(self, free: int = ROOM_BYTES) -> None:
        self._free = free

    def take(self, size: int) -> None:
        """Use some of it. Raises QuotaExceeded when there is not so much left."""
        if size > self._free:
            raise QuotaExceeded("too many large requests at once; wait and retry", retry_after=1)
        self._free -= size

    def give_back(self, size: int) -> None:
        """Use it no longer."""
        self._free += size


async def read_body(request: Request, kind: type[W], room: Room, most: int = MAX_BODY_BYTES) -> W:
    """The body as a value of its type; raises InvalidRequest, naming the fields, and QuotaExceeded."""
    body = await read_bounded(request, room, most)
    if weight(body, MAX_BODY_WEIGHT) > MAX_BODY_WEIGHT:
        raise InvalidRequest(f"the body has more than {MAX_BODY_WEIGHT} elements")
    try:
        # Python's own names for the fields are not the wire's.
        value: W = kind.__pydantic_validator__.validate_json(body, by_alias=True, by_name=False)
    except ValidationError as error:
        raise refusal(error) from None
    return value


async def read_bounded(request: Request, room: Room, most: int = MAX_BODY_BYTES) -> bytes:
    """The body as it comes. Raises InvalidRequest if it is too large or too late, and QuotaExceeded."""
    if _declared(request.headers.get("content-length")) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(ARRIVAL_SECONDS):
            return await _arrived(request.stream(), room, most)
    except TimeoutError:
        raise InvalidRequest(f"the body did not arrive within {ARRIVAL_SECONDS:g} seconds") from None


async def _arrived(stream: AsyncIterator[bytes], room: Room, most: int) -> bytes:
    parts: list[bytes] = []
    size, taken = 0, 0
    try:
        async for part in stream:
            size += len(part)
            if size > most:
                raise _too_large(most)
            beyond = max(0, size - SMALL_BYTES) - taken
            room.take(beyond)
            taken += beyond
            parts.append(part)
    finally:
        room.give_back(taken)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _declared(length: str | None) -> int:
    return int(length) if length is not None and length.isdigit() and len(length) < 20 else 0


def _too_large(most: int) -> InvalidRequest:
    return InvalidRequest(f"the body is larger than {most} bytes")


def idempotency_key(request: Request) -> str | None:
    """The key that makes the request safe to repeat, if it has one. Raises InvalidRequest for two."""
    given = request.headers.getlist(HEADER)
    if len(given) > 1:
        problem = FieldProblem(field=HEADER, message="must be given once")
        raise InvalidRequest(f"{HEADER} is malformed", errors=(problem,))
    return given[0] if given else None


def preferred_wait(request: Request) -> int | None:
    """The seconds of `Prefer: wait=N` within our bounds; None without one, and for one that makes no sense."""
    for header in request.headers.getlist("prefer"):
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "wait":
                return _seconds(value.strip().strip('"'))
    return None


def _seconds(value: str) -> int | None:
    if not (value.isascii() and value.isdigit()):
        return None
    return min(int(value[-20:]) if len(value) <= 20 else MAX_WAIT_SECONDS, MAX_WAIT_SECONDS)


class Query:
    """The parameters of a request, none but those that are allowed."""

    def __init__(self, request: Request, allowed: Sequence[str]) -> None:
        self._given = request.query_params.multi_items() if request.scope["query_string"] else []
        for name, _ in self._given:
            if name not in allowed:
                raise _bad(name, "is not a parameter of this operation")

    def cursor(self) -> str | None:
        """Where to go on."""
        return self._one("cursor")

    def after(self) -> str | None:
        """Where to go on in a session's output."""
        return self._one("after")

    def limit(self) -> int:
        """How many items to answer."""
        text = self._one("limit")
        if text is None:
            return DEFAULT_PAGE
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_PAGE):
            raise _bad("limit", f"must be a whole number from 1 to {MAX_PAGE}")
        return int(text)

    def session(self) -> str | None:
        """Which session's items to list."""
        text = self._one("session")
        if text is not None and not _SESSION.fullmatch(text):
            raise _bad("session", "is not the id of a session")
        return text

    def wanted(self) -> Filter:
        """Which sessions to list: `phase=running`, and any number of `label=name:value`."""
        return Filter(phase=self._phase(), labels=self._labels())

    def _phase(self) -> Phase | None:
        text = self._one("phase")
        try:
            return Phase(text) if text is not None else None
        except ValueError:
            raise _bad("phase", f"must be one of {', '.join(Phase)}") from None

    def _labels(self) -> dict[str, str]:
        labels: dict[str, str] = {}
        for text in self._all("label"):
            name, colon, value = text.partition(":")
            if not name or not colon:
                raise _bad("label", "must be name:value")
            if labels.setdefault(name, value) != value:
                raise _bad("label", "asks for two values of one label")
        return labels

    def _one(self, name: str) -> str | None:
        values = self._all(name)
        if len(values) > 1:
            raise _bad(name, "must be given once")
        return values[0] if values else None

    def _all(self, name: str) -> list[str]:
        return [value for given, value in self._given if given == name]


def _bad(name: str, message: str) -> InvalidRequest:
    return InvalidRequest(
        "a query parameter is malformed", errors=(FieldProblem(field=shortened(name), message=message),)
    )
