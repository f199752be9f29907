"""What a conversation with a server is made of: the steps a flow asks for, and the replies a driver gives."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from enclave.contracts.operations import Operation
from enclave.sdk.sign_in import Held, SignIn

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Send a request; the reply is an Answer or Lost. `patience_seconds` is how much longer than usual it may take, and
    `bearer` is who asks, where that is not the client's own credential."""

    operation: Operation
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    bearer: str | None = field(default=None, repr=False)
    patience_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request and leave its answer open to be read; the reply is an Answer or Lost."""

    call: Call


@dataclass(frozen=True, slots=True)
class Read:
    """Take the next bytes of the open answer; the reply is bytes, empty at the end, or Lost."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; the reply is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Claim:
    """Take the sign-in that is kept here, until the flow is over; the reply is Held, or None while another has it."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep this in place of the sign-in that was claimed, or with None forget it; the reply is None."""

    sign_in: SignIn | None


@dataclass(frozen=True, slots=True)
class Whole:
    """Run a flow to its end, whatever becomes of whoever waits for it; the reply is what it delivers."""

    flow: "Flow[Any]"


@dataclass(frozen=True, slots=True)
class Deliver(Generic[T]):
    """Hand something to the caller; the reply is None. `cursor` is where a stream can be resumed after it."""

    item: T
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. The body of an answer that is left open (`streams`) is not in it."""

    status: int
    body: bytes = b""
    retry_after: float | None = None
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no answer.

    `unsent` is whether the server certainly never saw the request, `late` whether it was waited for until time was up.
    """

    reason: str
    unsent: bool = False
    late: bool = False


Reply: TypeAlias = Answer | Lost | Held | bytes | None
Step: TypeAlias = Call | Open | Read | Pause | Claim | Keep | Whole | Deliver[T]
Flow: TypeAlias = Generator[Step[T], Reply, None]
"""A conversation that delivers values of one type, and does no I/O itself."""


def advance(flow: Flow[T], reply: Reply) -> Step[T] | None:
    """What a flow asks for next, given the reply to what it asked before; None when it is over."""
    try:
        return flow.send(reply)
    except StopIteration:
        return None
