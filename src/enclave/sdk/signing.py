"""Signing in and staying so, as conversations; no I/O in here.

A refresh token passes once, and one that is used twice ends the sign-in. So whoever uses it holds the lock, reads what
is kept under it, and keeps what the server answers before using it; nothing but a crash between the server's answer and
the disk loses the sign-in, and then its user signs in again.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast
from uuid import uuid4

from pydantic import SecretStr, ValidationError

from enclave.contracts.errors import Unauthenticated, Unavailable
from enclave.contracts.members import (
    AcceptInvitation,
    ChangePassword,
    Done,
    Login,
    Refresh,
    ResetPassword,
    Switch,
    Tokens,
)
from enclave.contracts.operations import (
    ACCEPT_INVITATION,
    CHANGE_PASSWORD,
    LOGIN,
    LOGOUT,
    REFRESH_TOKEN,
    RESET_PASSWORD,
    SWITCH_ORG,
    Operation,
)
from enclave.contracts.wire import Wire
from enclave.sdk.flow import Api, calling
from enclave.sdk.problem import unreadable
from enclave.sdk.request import invalid
from enclave.sdk.sign_in import Held, SignIn
from enclave.sdk.step import Answer, Call, Claim, Deliver, Flow, Keep, Open, Pause, Reply, Whole, advance

T = TypeVar("T")

POLL_SECONDS: Final = 0.02
CLAIM_SECONDS: Final = 60

_OVER: Final = "the sign-in at {site} is over: run `enclave login`; `enclave logout` forgets it"
_REPLACED: Final = "this client's sign-in at {site} was replaced or signed out meanwhile; a new client takes up the new"
_BAD_CODE: Final = "the code passes no more, or never did"
_REFUSED: Final = {
    LOGIN.name: "the email or the password is wrong",
    ACCEPT_INVITATION.name: f"{_BAD_CODE}, or the password is not the account's",
}
_NOBODY: Final = "nobody is signed in at {site}: run `enclave login`"

Talk: TypeAlias = Generator[Any, Reply, SignIn]
Work: TypeAlias = Callable[[Held], Talk]


@dataclass(frozen=True, slots=True)
class Signing:
    """The conversations that make, renew and end the sign-in that is kept here, with the server of `api`."""

    api: Api

    def login(self, asked: Login) -> Flow[SignIn]:
        """A sign-in by a password, kept in place of the one before, which ends if it was at the same server."""
        yield Deliver((yield from _alone(partial(self._begin, LOGIN, asked, asked.email))))

    def join(self, asked: AcceptInvitation) -> Flow[SignIn]:
        """The same by the code of an invitation."""
        yield Deliver((yield from _alone(partial(self._begin, ACCEPT_INVITATION, asked, None))))

    def change_password(self, asked: ChangePassword) -> Flow[SignIn]:
        """The sign-in that is left, after all of the user's were ended by another password."""
        yield Deliver((yield from _alone(partial(self._change, asked))))

    def reset_password(self, asked: ResetPassword) -> Flow[Done]:
        """Said when the password is set; what is kept here is not touched."""
        try:
            yield Deliver((yield from self.api.fetch(calling(RESET_PASSWORD, body=asked))))
        except Unauthenticated:
            raise Unauthenticated(_BAD_CODE) from None

    def logout(self) -> Flow[bool]:
        """Forget the sign-in, then end it; answers whether there was one."""
        settled = yield from _settled(self._end)
        yield Deliver(settled.sign_in is not None)

    def switched(self, org_id: str) -> Talk:
        """The sign-in, taken to another org."""
        return _alone(partial(self._switch, org_id))

    def renewed(self, spent: SignIn) -> Talk:
        """The sign-in with a token that is not the spent one: another's renewal, else one's own."""
        return _alone(partial(self._renew, spent))

    def _begin(self, operation: Operation, asked: Wire, email: str | None, held: Held) -> Talk:
        try:
            tokens = yield from self.api.fetch(calling(operation, body=asked))
        except Unauthenticated:
            raise Unauthenticated(_REFUSED[operation.name]) from None
        begun = self._signed(tokens, uuid4().hex, email)
        yield Keep(begun)
        if (before := held.sign_in) is not None and before.base_url == self.api.site:
            # Whether or not it could be ended: nobody has what would renew it any more.
            yield calling(LOGOUT, body=_refresh(before))
        return begun

    def _renew(self, spent: SignIn, held: Held) -> Talk:
        kept = self._kept(held)
        if kept.id != spent.id:
            raise Unauthenticated(_REPLACED.format(site=self.api.site))
        if kept.token != spent.token and not kept.ends:
            return kept
        return (yield from self._exchanged(calling(REFRESH_TOKEN, body=_refresh(kept)), kept))

    def _switch(self, org_id: str, held: Held) -> Talk:
        kept = self._kept(held)
        try:
            asked = Switch(refresh_token=SecretStr(kept.refresh_token), org_id=org_id)
        except ValidationError as error:
            raise invalid(error) from None
        return (yield from self._exchanged(calling(SWITCH_ORG, body=asked), kept, uuid4().hex))

    def _change(self, asked: ChangePassword, held: Held) -> Talk:
        kept = self._kept(held)
        if kept.ends:
            kept = yield from self._exchanged(calling(REFRESH_TOKEN, body=_refresh(kept)), kept)
        return (yield from self._exchanged(calling(CHANGE_PASSWORD, body=asked, bearer=kept.token), kept))

    def _end(self, held: Held) -> Generator[Any, Reply, SignIn | None]:
        kept = held.sign_in
        if kept is not None and kept.base_url != self.api.site:
            return None
        yield Keep(None)
        if kept is not None:
            yield from self.api.fetch(calling(LOGOUT, body=_refresh(kept)))
        return kept

    def _exchanged(self, call: Call, kept: SignIn, sign_in: str | None = None) -> Talk:
        # Where nothing can be written, that is known before the old refresh token is spent.
        yield Keep(kept)
        try:
            tokens = yield from self.api.fetch(call)
        except Unauthenticated:
            raise Unauthenticated(_OVER.format(site=self.api.site)) from None
        fresh = self._signed(tokens, sign_in or kept.id, kept.email)
        yield Keep(fresh)
        return fresh

    def _kept(self, held: Held) -> SignIn:
        if held.problem is not None:
            raise Unauthenticated(held.problem)
        if held.sign_in is None or held.sign_in.base_url != self.api.site:
            raise Unauthenticated(_NOBODY.format(site=self.api.site))
        return held.sign_in

    def _signed(self, tokens: Tokens, sign_in: str, email: str | None) -> SignIn:
        try:
            return SignIn(id=sign_in, base_url=self.api.site, email=email, **dict(tokens))
        except ValidationError:
            raise unreadable(self.api.site) from None


class Signed:
    """The sign-in that one client's flows go under, renewed before its token ends, and once where it is refused.

    Threads share it.
    """

    def __init__(self, signing: Signing, sign_in: SignIn) -> None:
        self._signing = signing
        self._sign_in = sign_in
        self._clock_fits = True

    def under(self, flow: Flow[T]) -> Flow[T]:
        """The same flow, its requests with a token."""
        reply: Reply = None
        try:
            while (step := advance(flow, reply)) is not None:
                if isinstance(step, Call | Open):
                    reply = yield from self._passed(step)
                else:
                    reply = yield step
        finally:
            flow.close()

    def switch(self, org_id: str) -> Flow[SignIn]:
        """The sign-in, taken to another org; this client's flows follow it there."""
        self._sign_in = yield from self._signing.switched(org_id)
        yield Deliver(self._sign_in)

    def _passed(self, step: Call | Open) -> Generator[Any, Reply, Reply]:
        if self._sign_in.ends and self._clock_fits:
            yield from self._renew(self._sign_in)
        used = self._sign_in
        reply = yield _bearing(step, used.token)
        if isinstance(reply, Answer) and reply.status == 401:
            yield from self._renew(used)
            reply = yield _bearing(step, self._sign_in.token)
        return reply

    def _renew(self, spent: SignIn) -> Generator[Any, Reply, None]:
        self._sign_in = yield from self._signing.renewed(spent)
        # By a clock that is far ahead of the server's all tokens have ended; then only a refusal tells.
        self._clock_fits = not self._sign_in.ends


def _bearing(step: Call | Open, token: str) -> Call | Open:
    if isinstance(step, Open):
        return Open(replace(step.call, bearer=token))
    return replace(step, bearer=token)


def _refresh(sign_in: SignIn) -> Refresh:
    return Refresh(refresh_token=SecretStr(sign_in.refresh_token))


def _alone(work: Work) -> Talk:
    return cast(SignIn, (yield from _settled(work)).sign_in)


def _settled(work: Callable[[Held], Generator[Any, Reply, SignIn | None]]) -> Generator[Any, Reply, Held]:
    """What becomes of work on the sign-in that nobody else touches meanwhile, and that nothing cuts short."""
    for _ in range(round(CLAIM_SECONDS / POLL_SECONDS)):
        settled = yield Whole(_claimed(work))
        if isinstance(settled, Held):
            return settled
        yield Pause(POLL_SECONDS)
    raise Unavailable(f"another process has held the sign-in for {CLAIM_SECONDS} seconds")


def _claimed(work: Callable[[Held], Generator[Any, Reply, SignIn | None]]) -> Flow[Held | None]:
    held = yield Claim()
    yield Deliver(Held((yield from work(held))) if isinstance(held, Held) else None)
