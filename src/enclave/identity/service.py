"""The whole identity authority of a single machine, its parts beside one database."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from enclave.identity.authority import EmbeddedIdentity
from enclave.identity.base import Accounts
from enclave.identity.books import Books
from enclave.identity.database import Clock, Database
from enclave.identity.directory import SqliteDirectory
from enclave.identity.home import private_home, secrets_of
from enclave.identity.introspection import EmbeddedService
from enclave.identity.keys import EmbeddedKeys
from enclave.identity.members import EmbeddedMembers
from enclave.identity.operator import EmbeddedOperator
from enclave.identity.orgs import EmbeddedOrgs
from enclave.identity.outbox import Outbox, Sink
from enclave.identity.refusals import Refusals
from enclave.identity.renewal import EmbeddedPasswords
from enclave.identity.sign_in import SignIns
from enclave.identity.token import TokenReader

DATABASE: Final = "identity.db"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is who, and what tells of its changes. Use it from one event loop, and close it."""

    authority: EmbeddedIdentity
    keys: EmbeddedKeys
    members: EmbeddedMembers
    sign_ins: SignIns
    orgs: EmbeddedOrgs
    passwords: EmbeddedPasswords
    operator: EmbeddedOperator
    refusals: Refusals
    outbox: Outbox
    service: EmbeddedService

    @property
    def accounts(self) -> Accounts:
        """What callers are led to."""
        return Accounts(self.keys, self.members, self.sign_ins, self.orgs, self.passwords, self.operator)

    @classmethod
    def open(
        cls, home: Path, sink: Sink | None, *, now: Clock, jwt_secret: str | None = None, orgs_per_user: int = 10
    ) -> Self:
        """The authority that lives in `home`, made there if there is none; events go to `sink`, and without one they
        wait to be taken.
        `jwt_secret` is used in place of its own. A user makes `orgs_per_user` orgs at most.

        Raises InvalidRequest if the secret is too short, and Unavailable, saying why, if `home` cannot be used or
        others can read what is secret in it.
        """
        private_home(home)
        secrets = secrets_of(home)
        tokens = TokenReader(_bytes(secrets.jwt_secret if jwt_secret is None else jwt_secret))
        pepper = secrets.api_key_pepper.encode()
        database = Database.open(home / DATABASE, now)
        refusals = Refusals(database)
        directory = SqliteDirectory(database)
        authority = EmbeddedIdentity(directory, tokens, pepper=pepper, now=now, refused=refusals.key)
        books = Books(database, Outbox(database, sink), pepper, authority.forget)
        sign_ins = SignIns(books, tokens, refusals)
        return cls(
            authority=authority,
            keys=EmbeddedKeys(books, authority.used),
            members=EmbeddedMembers(books, sign_ins),
            sign_ins=sign_ins,
            orgs=EmbeddedOrgs(books, orgs_per_user),
            passwords=EmbeddedPasswords(books, sign_ins),
            operator=EmbeddedOperator(books),
            refusals=refusals,
            outbox=books.outbox,
            service=EmbeddedService(books, authority),
        )

    async def tick(self) -> None:
        """Write down what is not yet. Call it now and then, and once at the start."""
        self.keys.note_uses()
        self.refusals.note()
        await self.outbox.deliver()

    def close(self) -> None:
        """Release everything."""
        self.outbox.close()
        self.authority.close()


def _bytes(secret: str) -> bytes:
    # An environment variable may hold any bytes; Python keeps those that are not UTF-8 as surrogates.
    return secret.encode(errors="surrogateescape")
