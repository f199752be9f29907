"""Passwords that are set anew: by who knows the one before, or with a code of the operator's."""

import sqlite3
from datetime import timedelta
from typing import Any, Final

from enclave.contracts.audit import PasswordChanged
from enclave.contracts.errors import Conflict, FieldProblem, InvalidRequest, Unauthenticated
from enclave.contracts.identity import Principal
from enclave.contracts.members import MIN_PASSWORD, ChangePassword, ResetPassword, Tokens
from enclave.contracts.operations import CHANGE_PASSWORD
from enclave.identity.apikey import NO_HASH, ApiKey, parse
from enclave.identity.books import Books
from enclave.identity.guard import site
from enclave.identity.outbox import post
from enclave.identity.sign_in import Account, SignIns, seat
from enclave.identity.standing import signed_in

RESET: Final = "ep"
RESET_LIFE: Final = timedelta(hours=24)


class EmbeddedPasswords:
    """The passwords of all users."""

    def __init__(self, books: Books, sign_ins: SignIns) -> None:
        self._books = books
        self._sign_ins = sign_ins

    async def change(self, principal: Principal, asked: ChangePassword, address: str) -> Tokens:
        """Set one's own anew; every sign-in ends, the answer is a new one. Raises Forbidden to one who is not signed in
        as a user here, InvalidRequest for a wrong or a short one, QuotaExceeded, and Conflict if another was faster."""
        check_length(asked.new.get_secret_value(), "new")
        with self._books.database.change() as connection:
            email = signed_in(connection, principal, CHANGE_PASSWORD).email
        account = await self._sign_ins.check(email, asked.current.get_secret_value(), address)
        if account is None:
            problem = FieldProblem(field="current", message="is not the password of the account")
            raise InvalidRequest("the current password is another", errors=(problem,))
        fresh = await self._sign_ins.passwords.hash(asked.new.get_secret_value(), site(address))
        with self._books.database.change() as connection:
            there = seat(connection, account.user_id, principal.org_id)
            # Of two who know it, and change it at once, one is refused.
            if not connection.execute(_CHANGE, (fresh, account.user_id, account.password)).rowcount:
                raise Conflict("the password was changed meanwhile")
            self._settled(connection, account.user_id, reset=False)
            begun = self._sign_ins.begin(connection, account, there)
        await self._books.settle()
        return self._sign_ins.given(begun)

    async def reset(self, asked: ResetPassword, address: str) -> None:
        """Set a user's anew with a code, which passes once; every sign-in of theirs ends. Raises Unauthenticated for a
        code that does not pass, InvalidRequest for a short one, and QuotaExceeded."""
        check_length(asked.password.get_secret_value(), "password")
        self._sign_ins.guard.take_code(address)
        code = parse(asked.code.get_secret_value(), RESET)
        account = self._account(code)
        if code is None or account is None:
            raise Unauthenticated
        fresh = await self._sign_ins.passwords.hash(asked.password.get_secret_value(), site(address))
        with self._books.database.change() as connection:
            # While the password was hashed another may have used it.
            if connection.execute(_RESET, self._code(code)).fetchone() is None:
                raise Unauthenticated
            connection.execute("UPDATE users SET password = ? WHERE id = ?", (fresh, account.user_id))
            self._settled(connection, account.user_id, reset=True)
        self._sign_ins.guard.passed_code(address)
        await self._books.settle()

    def _account(self, code: ApiKey | None) -> Account | None:
        if code is None:
            return None
        row = self._books.database.one(_RESET, self._code(code))
        held = code.has_hash(row[1] if row else NO_HASH, self._books.pepper)
        return Account(row[0], "", None) if row and held else None

    def _code(self, code: ApiKey) -> tuple[str, float]:
        return code.id, self._books.database.now().timestamp()

    def _settled(self, connection: sqlite3.Connection, user_id: str, *, reset: bool) -> None:
        connection.execute("DELETE FROM resets WHERE user_id = ?", (user_id,))
        connection.execute(_END_ALL, (self._books.database.stamp(), user_id))
        for (org_id,) in connection.execute(_ORGS, (user_id,)).fetchall():
            told: dict[str, Any] = self._books.told(org_id, user_id)
            post(connection, PasswordChanged(**told, reset=reset))


def check_length(password: str, field: str) -> None:
    """Raise InvalidRequest, naming the field, for a password that is too short to be a new one."""
    if len(password) < MIN_PASSWORD:
        problem = FieldProblem(field=field, message=f"must have at least {MIN_PASSWORD} characters")
        raise InvalidRequest("the password is too short", errors=(problem,))


_CHANGE: Final = "UPDATE users SET password = ? WHERE id = ? AND password = ?"
_RESET: Final = "SELECT user_id, hash FROM resets WHERE id = ? AND expires_at > ?"
_END_ALL: Final = "UPDATE sign_ins SET ended_at = coalesce(ended_at, ?) WHERE user_id = ?"
_ORGS: Final = "SELECT org_id FROM memberships WHERE user_id = ? AND removed_at IS NULL"
