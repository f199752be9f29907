"""What the identity authority does for a control plane in another process."""

from datetime import UTC, datetime
from typing import Final

from enclave.contracts.errors import EnclaveError, Unavailable
from enclave.contracts.introspection import Events, Introspect, Introspection, TakeEvents
from enclave.identity.apikey import NO_HASH, SERVICE, ApiKey, new_api_key, parse
from enclave.identity.authority import EmbeddedIdentity, Known
from enclave.identity.books import Books

_LAST: Final = datetime.max.replace(tzinfo=UTC).timestamp()
"""A token may say that it holds longer than there are dates."""


class EmbeddedService:
    """The Service of the authority in this process."""

    def __init__(self, books: Books, authority: EmbeddedIdentity) -> None:
        self._database = books.database
        self._outbox = books.outbox
        self._authority = authority
        self._pepper = books.pepper

    def issue(self) -> ApiKey:
        """A new credential for the control plane; the one before is refused from now on. It is not stored."""
        key = new_api_key(SERVICE)
        with self._database.change() as connection:
            connection.execute("DELETE FROM services")
            row = (key.id, key.hash(self._pepper), self._database.stamp())
            connection.execute("INSERT INTO services (id, hash, created_at) VALUES (?, ?, ?)", row)
        return key

    def admits(self, credential: str) -> bool:
        """Whether it is the credential of the control plane, told in constant time."""
        key = parse(credential, SERVICE)
        if key is None:
            return False
        row = self._database.one("SELECT hash FROM services WHERE id = ?", (key.id,))
        return key.has_hash(row[0] if row else NO_HASH, self._pepper) and row is not None

    async def introspect(self, asked: Introspect) -> Introspection:
        """Whose credential it is. Raises Unavailable."""
        if self._authority.is_operator(asked.credential):
            return Introspection(active=True, operator=True)
        try:
            return _active(self._authority.known(asked.credential))
        except Unavailable:
            raise
        except EnclaveError:
            return Introspection(active=False)

    async def events(self, asked: TakeEvents) -> Events:
        """What is to be told in the chains of orgs."""
        return await self._outbox.take(asked)


def _active(known: Known) -> Introspection:
    until = datetime.fromtimestamp(known.until, UTC) if known.until < _LAST else None
    return Introspection(active=True, principal=known.principal, until=until)
