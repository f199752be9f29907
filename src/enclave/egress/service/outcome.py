"""How a call ends: the record of it, what stops it, and what the sandbox is told then."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import h11


@dataclass(frozen=True, slots=True)
class Call:
    """What happened to one request, for the record. `path` is relative to the base and has no query.

    `status` is what the sandbox was told, None if nothing. `sent` and `received` count bytes of bodies, to and from the
    upstream. `error` says why the call failed or was cut off, None if it went through.
    """

    binding: str
    method: str
    path: str
    status: int | None
    sent: int
    received: int
    seconds: float
    error: str | None


Report = Callable[[Call], None]


class Rejection(Exception):
    """A call that ends here. `status` and `why` are for the sandbox, if nothing was said yet; they hold no secret."""

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        self.why = why
        super().__init__(why)


class Departed(Exception):
    """The sandbox's end is gone, or takes nothing: there is nobody to tell."""


def refusal(caller: h11.Connection, rejection: Rejection, method: str = "") -> bytes:
    """A whole answer to the caller's request of that method, as an RFC 9457 problem."""
    code = "binding_call_refused" if rejection.status < HTTPStatus.INTERNAL_SERVER_ERROR else "binding_call_failed"
    body = json.dumps(_problem(rejection, code)).encode()
    headers = [(b"Content-Type", b"application/problem+json"), (b"Content-Length", b"%d" % len(body))]
    if caller.their_state is not h11.DONE:
        # Where the rest of the request would end is unknown, or not worth waiting for.
        headers.append((b"Connection", b"close"))
    status = rejection.status
    head = caller.send(h11.Response(status_code=status, headers=headers, reason=phrase(status)))
    told = caller.send(h11.Data(data=b"" if method == "HEAD" else body))
    return head + told + caller.send(h11.EndOfMessage())


def phrase(status: int) -> bytes:
    """The standard reason; an upstream's own could hold the secret, and means nothing (RFC 9112, 4)."""
    known = {known.value: known.phrase for known in HTTPStatus}
    return known.get(status, "").encode()


def _problem(rejection: Rejection, code: str) -> Mapping[str, str | int]:
    # As enclave.contracts.errors.Problem; the broker loads nothing that it can do without.
    title = phrase(rejection.status).decode()
    kind = f"urn:enclave:problem:{code}"
    return {"type": kind, "title": title, "status": rejection.status, "detail": rejection.why, "code": code}
