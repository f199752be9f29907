"""The identity authority of a single machine."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from enclave.contracts.errors import Forbidden, Unauthenticated
from enclave.contracts.identity import Principal
from enclave.core.access import ROLES
from enclave.identity.apikey import NO_HASH, OPERATOR, ApiKey, new_api_key, parse
from enclave.identity.database import Clock
from enclave.identity.directory import Claim, Directory, KeyRecord, Member
from enclave.identity.token import INVALID, TokenReader

MAX_CREDENTIAL_CHARS: Final = 8192
MAX_REMEMBERED: Final = 4096
REMEMBER_SECONDS: Final = 30.0
"""How long a credential may still pass after another process has put it out of force."""


Refused = Callable[[str, str], None]
"""Is told the org and the id of an API key that was given and does not hold."""


@dataclass(frozen=True, slots=True)
class Known:
    """A caller, until when (POSIX seconds) their credential holds at most, and until when it need not be looked up."""

    principal: Principal
    until: float
    looked_up_until: float


class EmbeddedIdentity:
    """An Authenticator for API keys and user JWTs that asks nobody else. Use it from one event loop, and close it."""

    def __init__(
        self,
        directory: Directory,
        tokens: TokenReader,
        *,
        pepper: bytes,
        now: Clock,
        refused: Refused = lambda org_id, key_id: None,
    ) -> None:
        self._directory = directory
        self._tokens = tokens
        self._pepper = pepper
        self._refused = refused
        self._now = now
        self._remembered: dict[bytes, Known] = {}
        self._used: dict[str, datetime] = {}

    async def authenticate(self, credential: str) -> Principal:
        """The caller behind an API key or a user JWT. Raises Unauthenticated, which says nothing of why, and Forbidden
        to the operator."""
        return self.identify(credential)

    async def authenticate_operator(self, credential: str) -> None:
        """Pass the operator's credential. Raises Forbidden to an org's caller, and Unauthenticated."""
        if not self.is_operator(credential):
            self.identify(credential)
            raise Forbidden("only the operator may: it takes the credential in the server's operator.json")

    def identify(self, credential: str) -> Principal:
        """As `authenticate`, for callers that are not in an event loop."""
        return self.known(credential).principal

    def known(self, credential: str) -> Known:
        """As `authenticate`, with how long it holds."""
        if len(credential) > MAX_CREDENTIAL_CHARS or not credential.isascii():
            raise Unauthenticated
        digest, now = hashlib.sha256(credential.encode()).digest(), self._now().timestamp()
        known = self._remembered.get(digest)
        if known is None or known.looked_up_until <= now:
            known = self._examine(credential, now)
            self._remember(digest, known)
        return known

    def issue_key(self, member: Member) -> ApiKey:
        """A new API key with all the rights of a member. It is not stored: this is the only time it is seen."""
        key = new_api_key()
        self._directory.add_key(KeyRecord(key.id, member, key.hash(self._pepper)))
        return key

    def issue_operator(self) -> ApiKey:
        """A new credential for the operator; the one before is refused from now on. It is not stored."""
        key = new_api_key(OPERATOR)
        self._directory.replace_operator(key.id, key.hash(self._pepper))
        return key

    def is_operator(self, credential: str) -> bool:
        """Whether it is the operator's credential, told in constant time."""
        key = parse(credential, OPERATOR)
        if key is None:
            return False
        found = self._directory.find_operator(key.id)
        return key.has_hash(found or NO_HASH, self._pepper) and found is not None

    def is_key(self, credential: str) -> bool:
        """Whether it is an API key in force, be its org disabled or not; it is not used by that."""
        key = parse(credential)
        record = self._directory.find_key(key.id) if key else None
        if key is None or record is None:
            return False
        return key.has_hash(record.hash, self._pepper) and record.in_force(self._now().timestamp())

    def owner(self, email: str) -> Member:
        """The member with this address, made the owner of an org of their own if there is none."""
        return self._directory.owner(email)

    def revoke_key(self, key_id: str) -> None:
        """Refuse a key from now on. Idempotent."""
        self._directory.revoke_key(key_id)
        self.forget()

    def forget(self) -> None:
        """Look every credential up again."""
        self._remembered.clear()

    def used(self) -> Mapping[str, datetime]:
        """Which keys were used when, since this was last asked: true to within REMEMBER_SECONDS."""
        used, self._used = self._used, {}
        return used

    def close(self) -> None:
        """Release everything."""
        self._directory.close()

    def _examine(self, credential: str, now: float) -> Known:
        if self.is_operator(credential):
            raise Forbidden("the operator acts in no org: use an API key or a user token of one")
        key = parse(credential)
        return self._of_token(credential, now) if key is None else self._of_key(key, now)

    def _of_key(self, key: ApiKey, now: float) -> Known:
        # What a wrong secret costs is the same whether its id is known or not: the rest is looked up for a right one.
        found = self._directory.find_hash(key.id)
        held = key.has_hash(found[0] if found else NO_HASH, self._pepper)
        record = self._directory.find_key(key.id) if held and found else None
        if record is None or record.disabled or not record.in_force(now):
            if found is not None:
                self._refused(found[1], key.id)
            raise Unauthenticated
        member = record.member
        self._used[key.id] = self._now()
        principal = Principal(user_id=key.id, org_id=member.org_id, role=member.role, scopes=record.scopes)
        return Known(principal, record.until, min(record.until, now + REMEMBER_SECONDS))

    def _of_token(self, token: str, now: float) -> Known:
        try:
            read = self._tokens.read(token)
        except INVALID:
            raise Unauthenticated from None
        said = read.principal
        role = self._directory.standing(Claim(Member(said.org_id, said.user_id, said.role), read.sign_in))
        if read.until <= now or role is None:
            raise Unauthenticated
        held = said if role is said.role else said.model_copy(update={"role": role, "scopes": ROLES[role]})
        return Known(held, read.until, min(read.until, now + REMEMBER_SECONDS))

    def _remember(self, digest: bytes, known: Known) -> None:
        while len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = known
