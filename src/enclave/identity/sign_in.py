"""Signing in: a password for a short-lived token and a refresh token, which passes once."""

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from enclave.contracts.audit import RefreshReused, SignedIn, SignInsRefused
from enclave.contracts.errors import Forbidden, QuotaExceeded, Unauthenticated
from enclave.contracts.identity import Role
from enclave.contracts.members import Login, Refresh, Tokens
from enclave.identity.apikey import NO_HASH, ApiKey, new_api_key, parse
from enclave.identity.attempts import Attempts
from enclave.identity.database import Database
from enclave.identity.outbox import Outbox, post
from enclave.identity.password import Passwords
from enclave.identity.token import TokenReader

TOKEN_LIFE: Final = timedelta(minutes=15)
"""How long a member who was removed may still call."""
SIGN_IN_LIFE: Final = timedelta(days=30)
REFRESH: Final = "er"

WINDOW_SECONDS: Final = 300.0
MAX_OF_PAIR: Final = 5
MAX_OF_ADDRESS: Final = 50
MAX_OF_USER: Final = 50
MAX_KNOWN: Final = 10_000


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


class Guard:
    """How often a sign-in may fail: from an address to a user, from an address, and to a user from strange addresses.

    The last does not bind addresses that the user signed in from, so that nobody can lock them out of there.
    """

    def __init__(self, database: Database) -> None:
        def now() -> float:
            return database.now().timestamp()

        self._pairs = Attempts(MAX_OF_PAIR, WINDOW_SECONDS, now)
        self._addresses = Attempts(MAX_OF_ADDRESS, WINDOW_SECONDS, now)
        self._users = Attempts(MAX_OF_USER, WINDOW_SECONDS, now)
        self._known: dict[tuple[str, str], None] = {}

    def take(self, address: str, email: str) -> bool:
        """Count an attempt, before it is made; whether the user signed in from there before. Raises QuotaExceeded."""
        self._addresses.take(address)
        self._pairs.take((address, email))
        known = (address, email) in self._known
        if not known:
            self._users.take(email)
        return known

    def passed(self, address: str, email: str) -> None:
        """The attempt that was counted last succeeded."""
        self._addresses.give_back(address)
        self._pairs.give_back((address, email))
        if (address, email) not in self._known:
            self._users.give_back(email)
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[address, email] = None


class SignIns:
    """Who is signed in."""

    def __init__(self, database: Database, outbox: Outbox, tokens: TokenReader, pepper: bytes) -> None:
        self._database = database
        self._outbox = outbox
        self._tokens = tokens
        self._pepper = pepper
        self._guard = Guard(database)
        self._refused: Counter[str] = Counter()
        self.passwords = Passwords()

    async def login(self, asked: Login, address: str) -> Tokens:
        """Sign in, from an address. Raises Unauthenticated, in the same way and time whether it is the user or the
        password that is wrong, QuotaExceeded, and Forbidden to one who is in no such org."""
        account = await self.check(asked.email, asked.password.get_secret_value(), address)
        if account is None:
            raise Unauthenticated
        row = self._database.one(_SEAT, (account.user_id, asked.org_id, asked.org_id))
        if row is None:
            raise Forbidden("you are a member of no such org")
        return await self.begin(account, Seat(row[0], Role(row[1])))

    async def check(self, email: str, password: str, address: str) -> Account | None:
        """Whose password it is, None if nobody's. Raises QuotaExceeded after too many failures."""
        email = email.lower()
        row = self._database.one("SELECT id, email, password FROM users WHERE email = ?", (email,))
        account = Account(*row) if row else Account("", email, None)
        try:
            known = self._guard.take(address, email)
        except QuotaExceeded:
            self._refused[account.user_id] += 1
            raise
        if not await self.passwords.fits(password, account.password, known=known):
            self._refused[account.user_id] += 1
            return None
        self._guard.passed(address, email)
        return account

    async def begin(self, account: Account, seat: Seat) -> Tokens:
        """Sign a user in to an org that they are a member of."""
        now, first = self._database.now(), new_api_key(REFRESH)
        until = (now + SIGN_IN_LIFE).timestamp()
        row = (first.id, first.hash(self._pepper), seat.org_id, account.user_id, until)
        with self._database.change() as connection:
            connection.execute("DELETE FROM sign_ins WHERE expires_at <= ?", (now.timestamp(),))
            connection.execute(_BEGIN, row)
            post(connection, SignedIn(ts=now, org_id=seat.org_id, session_id=None, actor=account.user_id))
        await self._outbox.deliver()
        return self._given(account, seat, first)

    async def refresh(self, asked: Refresh) -> Tokens:
        """The next token and refresh token of a sign-in; the one that is given passes no more. If it had passed before,
        the sign-in is over: one of two who have it stole it. Raises Unauthenticated."""
        token = parse(asked.refresh_token.get_secret_value(), REFRESH)
        if token is None:
            raise Unauthenticated
        fresh = ApiKey(token.id, new_api_key().secret, REFRESH)
        with self._database.change() as connection:
            row = connection.execute(_SIGN_IN, (token.id, self._database.now().timestamp())).fetchone()
            intact = token.has_hash(row[0] if row else NO_HASH, self._pepper)
            if row is not None and intact:
                connection.execute("UPDATE sign_ins SET hash = ? WHERE id = ?", (fresh.hash(self._pepper), token.id))
            elif row is not None:
                self._end_reused(connection, token.id, row)
        await self._outbox.deliver()
        if row is None or not intact or row[4] is None:
            raise Unauthenticated
        return self._given(Account(row[2], row[3], None), Seat(row[1], Role(row[4])), fresh)

    async def logout(self, asked: Refresh) -> None:
        """End a sign-in; says nothing of whether there was one."""
        token = parse(asked.refresh_token.get_secret_value(), REFRESH)
        if token is not None:
            ended = (self._database.stamp(), token.id, token.hash(self._pepper))
            with self._database.change() as connection:
                connection.execute(f"{_END} AND hash = ?", ended)

    def note_refusals(self) -> None:
        """Tell of the sign-ins that were refused, as one for each user and org. Call it now and then."""
        refused, self._refused = self._refused, Counter()
        now = self._database.now()
        for user_id, count in refused.items():
            with self._database.change() as connection:
                for (org_id,) in connection.execute(_ORGS, (user_id,)).fetchall():
                    told = SignInsRefused(ts=now, org_id=org_id, session_id=None, actor=user_id, count=count)
                    post(connection, told)

    def _end_reused(self, connection: sqlite3.Connection, sign_in: str, row: tuple[bytes, str, str]) -> None:
        now = self._database.now()
        connection.execute(_END, (now.isoformat(), sign_in))
        post(connection, RefreshReused(ts=now, org_id=row[1], session_id=None, actor=row[2]))

    def _given(self, account: Account, seat: Seat, refresh: ApiKey) -> Tokens:
        # A token counts whole seconds (RFC 7519, NumericDate may have parts, but few expect them).
        until = int((self._database.now() + TOKEN_LIFE).timestamp())
        claims = {"sub": account.user_id, "email": account.email, "orgId": seat.org_id, "role": seat.role.value}
        return Tokens(
            token=self._tokens.sign({**claims, "exp": until}),
            expires_at=datetime.fromtimestamp(until, UTC),
            refresh_token=str(refresh),
            org_id=seat.org_id,
            role=seat.role,
        )


_SEAT: Final = (
    "SELECT org_id, role FROM memberships WHERE user_id = ? AND (org_id = ? OR ? IS NULL) AND removed_at IS NULL"
    " ORDER BY joined_at, org_id"
)
_ORGS: Final = "SELECT org_id FROM memberships WHERE user_id = ? AND removed_at IS NULL"
_BEGIN: Final = "INSERT INTO sign_ins (id, hash, org_id, user_id, expires_at) VALUES (?, ?, ?, ?, ?)"
_SIGN_IN: Final = (
    "SELECT hash, org_id, user_id, email,"
    " (SELECT role FROM memberships AS m WHERE m.org_id = s.org_id AND m.user_id = s.user_id AND removed_at IS NULL)"
    " FROM sign_ins AS s JOIN users ON users.id = user_id WHERE s.id = ? AND expires_at > ? AND ended_at IS NULL"
)
_END: Final = "UPDATE sign_ins SET ended_at = ? WHERE id = ? AND ended_at IS NULL"
