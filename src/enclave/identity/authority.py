"""The identity authority of a single machine."""

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from enclave.contracts.errors import Forbidden, Unauthenticated
from enclave.contracts.identity import Principal
from enclave.identity.apikey import NO_HASH, OPERATOR, ApiKey, new_api_key, parse
from enclave.identity.database import Clock
from enclave.identity.directory import Directory, KeyRecord, Member
from enclave.identity.token import INVALID, TokenReader

MAX_CREDENTIAL_CHARS: Final = 8192
MAX_REMEMBERED: Final = 4096
REMEMBER_SECONDS: Final = 30.0
"""How long a key may still pass after another process has revoked it."""


class EmbeddedIdentity:
    """An Authenticator for API keys and user JWTs that asks nobody else. Use it from one event loop, and close it."""

    def __init__(self, directory: Directory, tokens: TokenReader, *, pepper: bytes, now: Clock) -> None:
        self._directory = directory
        self._tokens = tokens
        self._pepper = pepper
        self._now = now
        self._remembered: dict[bytes, tuple[Principal, float]] = {}
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
        if len(credential) > MAX_CREDENTIAL_CHARS or not credential.isascii():
            raise Unauthenticated
        digest, now = hashlib.sha256(credential.encode()).digest(), self._now().timestamp()
        known = self._remembered.get(digest)
        if known is None or known[1] <= now:
            known = self._examine(credential, now)
            self._remember(digest, known)
        return known[0]

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

    def owner(self, email: str) -> Member:
        """The member with this address, made the owner of an org of their own if there is none."""
        return self._directory.owner(email)

    def revoke_key(self, key_id: str) -> None:
        """Refuse a key from now on. Idempotent."""
        self._directory.revoke_key(key_id)
        self.forget()

    def forget(self) -> None:
        """Look every key up again."""
        self._remembered.clear()

    def used(self) -> Mapping[str, datetime]:
        """Which keys were used when, since this was last asked: true to within REMEMBER_SECONDS."""
        used, self._used = self._used, {}
        return used

    def close(self) -> None:
        """Release everything."""
        self._directory.close()

    def _examine(self, credential: str, now: float) -> tuple[Principal, float]:
        if self.is_operator(credential):
            raise Forbidden("the operator acts in no org: use an API key or a user token of one")
        key = parse(credential)
        return self._of_token(credential, now) if key is None else self._of_key(key, now)

    def _of_key(self, key: ApiKey, now: float) -> tuple[Principal, float]:
        record = self._directory.find_key(key.id)
        if not key.has_hash(record.hash if record else NO_HASH, self._pepper) or record is None:
            raise Unauthenticated
        until = math.inf if record.until is None else record.until
        if until <= now:
            raise Unauthenticated
        member = record.member
        self._used[key.id] = self._now()
        principal = Principal(user_id=key.id, org_id=member.org_id, role=member.role, scopes=record.scopes)
        return principal, min(until, now + REMEMBER_SECONDS)

    def _of_token(self, token: str, now: float) -> tuple[Principal, float]:
        try:
            principal, until = self._tokens.read(token)
        except INVALID:
            raise Unauthenticated from None
        if until <= now:
            raise Unauthenticated
        return principal, until

    def _remember(self, digest: bytes, known: tuple[Principal, float]) -> None:
        while len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = known
