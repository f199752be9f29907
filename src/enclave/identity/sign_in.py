"""Signing in: a password for a short-lived token and a refresh token, which passes once."""

import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Final

from pydantic import SecretStr

from enclave.contracts.audit import RefreshReused, SignedIn, SignedOut
from enclave.contracts.errors import Forbidden, QuotaExceeded, Unauthenticated
from enclave.contracts.identity import Role
from enclave.contracts.members import Login, Refresh, Switch, Tokens
from enclave.identity.apikey import NO_HASH, ApiKey, new_api_key, parse
from enclave.identity.books import Books
from enclave.identity.guard import Guard, site
from enclave.identity.outbox import post
from enclave.identity.password import Passwords
from enclave.identity.refusals import Refusals
from enclave.identity.token import TokenReader

TOKEN_LIFE: Final = timedelta(minutes=15)
SIGN_IN_LIFE: Final = timedelta(days=30)
REFRESH: Final = "er"


@dataclass(frozen=True, slots=True)
class Account:
    """A user, as they sign in."""

    user_id: str
    email: str
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Seat:
    """A user in the org that they are signed in to."""

    org_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class SignIn:
    """Who is signed in where, with which refresh token, and what tokens name that by (a sign-in that is older than such
    names has none)."""

    account: Account
    seat: Seat
    refresh: ApiKey = field(repr=False)
    sid: str | None


class SignIns:
    """Who is signed in."""

    def __init__(self, books: Books, tokens: TokenReader, refusals: Refusals) -> None:
        self._books = books
        self._tokens = tokens
        self._refusals = refusals
        self.guard = Guard(books.database.now)
        self.passwords = Passwords()

    async def login(self, asked: Login, address: str) -> Tokens:
        """Sign in, from an address. Raises Unauthenticated, in the same way and time whether it is the user or the
        password that is wrong, QuotaExceeded, and Forbidden to one who is in no such org, or none that is enabled."""
        account = await self.check(asked.email, asked.password.get_secret_value(), address)
        if account is None:
            raise Unauthenticated
        with self._books.database.change() as connection:
            # While it was compared it may have been replaced, and every sign-in ended.
            if connection.execute(_UNCHANGED, (account.user_id, account.password)).fetchone() is None:
                raise Unauthenticated
            begun = self.begin(connection, account, seat(connection, account.user_id, asked.org_id))
        await self._books.outbox.deliver()
        return self.given(begun)

    async def check(self, email: str, password: str, address: str) -> Account | None:
        """Whose password it is, None if nobody's. Raises QuotaExceeded after too many failures."""
        email = email.lower()
        row = self._books.database.one("SELECT id, email, password FROM users WHERE email = ?", (email,))
        account = Account(*row) if row else Account("", email, None)
        try:
            known = self.guard.take(address, email)
        except QuotaExceeded:
            self._refusals.sign_in(account.user_id)
            raise
        if not await self.passwords.fits(password, account.password, site(address), known=known):
            self._refusals.sign_in(account.user_id)
            return None
        self.guard.passed(address, email)
        return account

    def begin(self, connection: sqlite3.Connection, account: Account, seat: Seat) -> SignIn:
        """Sign a user in to an org that they are a member of, within the transaction in which they were seen to be."""
        now, first = self._books.database.now(), new_api_key(REFRESH)
        until = (now + SIGN_IN_LIFE).timestamp()
        # Not before: of a sign-in that is not known, a token that names it is taken to be another issuer's.
        connection.execute("DELETE FROM sign_ins WHERE expires_at <= ?", ((now - TOKEN_LIFE).timestamp(),))
        sid = token_hex(8)
        row = (first.id, first.hash(self._books.pepper), seat.org_id, account.user_id, until, sid)
        connection.execute(_BEGIN, row)
        post(connection, SignedIn(**self._books.told(seat.org_id, account.user_id)))
        return SignIn(account, seat, first, sid)

    async def refresh(self, asked: Refresh) -> Tokens:
        """The next token and refresh token of a sign-in; the one that is given passes no more. If it had passed before,
        the sign-in is over: one of two who have it stole it. Raises Unauthenticated."""
        try:
            return await self._renew(asked.refresh_token, None)
        except Forbidden:
            raise Unauthenticated from None

    async def switch(self, asked: Switch) -> Tokens:
        """As `refresh`, and from then on the sign-in is to another org. Raises Forbidden, and leaves the sign-in as it
        is, where the user is in no such org, or it is disabled."""
        return await self._renew(asked.refresh_token, asked.org_id)

    async def logout(self, asked: Refresh) -> None:
        """End a sign-in; says nothing of whether there was one."""
        token = parse(asked.refresh_token.get_secret_value(), REFRESH)
        if token is None:
            return
        with self._books.database.change() as connection:
            found = self._find(connection, token)
            ended = found is not None and token.has_hash(found.hash, self._books.pepper)
            if found is not None and ended:
                connection.execute(_END, (self._books.database.stamp(), token.id))
                post(connection, SignedOut(**self._books.told(found.org_id, found.account.user_id)))
        await self._books.settle(changed=ended)

    def given(self, sign_in: SignIn) -> Tokens:
        """What one who is signed in gets."""
        account, seat = sign_in.account, sign_in.seat
        # A token counts whole seconds (RFC 7519, NumericDate may have parts, but few expect them).
        until = int((self._books.database.now() + TOKEN_LIFE).timestamp())
        claims = {"sub": account.user_id, "email": account.email, "orgId": seat.org_id, "role": seat.role.value}
        return Tokens(
            token=self._tokens.sign({**claims, "sid": sign_in.sid, "exp": until}),
            expires_at=datetime.fromtimestamp(until, UTC),
            refresh_token=str(sign_in.refresh),
            org_id=seat.org_id,
            role=seat.role,
        )

    async def _renew(self, given: SecretStr, org_id: str | None) -> Tokens:
        token = parse(given.get_secret_value(), REFRESH)
        if token is None:
            raise Unauthenticated
        renewed = None
        with self._books.database.change() as connection:
            found = self._find(connection, token)
            intact = token.has_hash(found.hash if found else NO_HASH, self._books.pepper)
            if found is not None and intact:
                renewed = self._next(connection, found, org_id)
            elif found is not None:
                self._end_reused(connection, found)
        await self._books.settle(changed=found is not None and renewed is None)
        if renewed is None:
            raise Unauthenticated
        return self.given(renewed)

    def _find(self, connection: sqlite3.Connection, token: ApiKey) -> "_Found | None":
        row = connection.execute(_SIGN_IN, (token.id, self._books.database.now().timestamp())).fetchone()
        return _Found(token.id, row[0], row[1], Account(row[2], row[3], None), row[4]) if row else None

    def _next(self, connection: sqlite3.Connection, found: "_Found", org_id: str | None) -> SignIn:
        account, fresh = found.account, ApiKey(found.id, new_api_key().secret, REFRESH)
        there = seat(connection, account.user_id, org_id or found.org_id)
        connection.execute(_RENEW, (fresh.hash(self._books.pepper), there.org_id, found.id))
        if org_id is not None:
            post(connection, SignedIn(**self._books.told(there.org_id, account.user_id)))
        return SignIn(account, there, fresh, found.sid)

    def _end_reused(self, connection: sqlite3.Connection, found: "_Found") -> None:
        connection.execute(_END, (self._books.database.stamp(), found.id))
        post(connection, RefreshReused(**self._books.told(found.org_id, found.account.user_id)))


@dataclass(frozen=True, slots=True)
class _Found:
    """A sign-in that is not over, and the hash of its refresh token."""

    id: str
    hash: bytes = field(repr=False)
    org_id: str
    account: Account
    sid: str | None


def seat(connection: sqlite3.Connection, user_id: str, org_id: str | None) -> Seat:
    """A user in an org, the first that they joined if none is named. Raises Forbidden where they are no member, or the
    org is disabled."""
    row = connection.execute(_SEAT, (user_id, org_id, org_id)).fetchone()
    if row is None:
        raise Forbidden("you are a member of no such org")
    return Seat(row[0], Role(row[1]))


_UNCHANGED: Final = "SELECT 1 FROM users WHERE id = ? AND password = ?"
_SEAT: Final = (
    "SELECT org_id, role FROM memberships JOIN orgs ON orgs.id = org_id WHERE user_id = ? AND (org_id = ? OR ? IS NULL)"
    " AND removed_at IS NULL AND disabled_at IS NULL ORDER BY joined_at, org_id"
)
_BEGIN: Final = "INSERT INTO sign_ins (id, hash, org_id, user_id, expires_at, sid) VALUES (?, ?, ?, ?, ?, ?)"
_SIGN_IN: Final = (
    "SELECT hash, org_id, user_id, email, sid FROM sign_ins AS s JOIN users ON users.id = user_id"
    " WHERE s.id = ? AND expires_at > ? AND ended_at IS NULL"
)
_RENEW: Final = "UPDATE sign_ins SET hash = ?, org_id = ? WHERE id = ?"
_END: Final = "UPDATE sign_ins SET ended_at = ? WHERE id = ? AND ended_at IS NULL"
