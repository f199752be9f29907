"""The secrets that orgs' webhooks are signed with, sealed, in the SQLite file."""

import json
import sqlite3
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from enclave.contracts.errors import Conflict, SecretUnreadable
from enclave.contracts.webhooks import WebhookSecretRotated
from enclave.core.webhook import MAX_SECRETS
from enclave.store.chain import Events
from enclave.store.reader import Readers
from enclave.store.vault import Vault
from enclave.store.writer import Writer


class SqliteSigning:
    """The Signing of a SqliteStore, written by its one writer."""

    def __init__(self, writer: Writer, readers: Readers, vault: Vault) -> None:
        self._writer = writer
        self._readers = readers
        self._vault = vault

    def rotate(self, secret: str, event: WebhookSecretRotated) -> Awaitable[None]:
        """Sign with a secret from now on, and with those before until the event's moment. Raises Conflict."""
        created = event.ts.isoformat()
        sealed = self._vault.seal(secret, beside(event.org_id, created))
        return self._writer.put(_Rotate(event.org_id, (event.org_id, created, sealed), (event,)))

    async def has_one(self, org_id: str) -> bool:
        """Whether there is anything that an org's webhooks are signed with."""
        return (
            await self._readers.run(lambda connection: connection.execute(_CURRENT, (org_id,)).fetchone()) is not None
        )

    async def secrets(self, org_id: str, at: datetime) -> Sequence[str]:
        """What an org's webhooks are signed with at a moment, the newest first. Raises SecretUnreadable."""
        values = (org_id, at.timestamp())
        rows = await self._readers.run(lambda connection: connection.execute(_VALID, values).fetchall())
        return opened(self._vault, org_id, rows)


@dataclass(frozen=True, slots=True)
class _Rotate:
    org_id: str
    row: tuple[str, str, bytes] = field(repr=False)
    events: Events

    def run(self, connection: sqlite3.Connection, sealed: Events) -> None:
        event = self.events[0]
        assert isinstance(event, WebhookSecretRotated)  # noqa: S101  for the type checker
        known = connection.execute(_CURRENT, (self.org_id,)).fetchone()
        check_turn(event, known[0] if known else None)
        if event.previous_until is not None:
            connection.execute(_RETIRE, (event.previous_until.timestamp(), self.org_id))
        connection.execute(_FORGET, (self.org_id, event.ts.timestamp(), self.org_id, MAX_SECRETS - 1))
        connection.execute(_ADD, self.row)


_CURRENT: Final = "SELECT created_at FROM webhook_secrets WHERE org_id = ? AND until IS NULL"
_RETIRE: Final = "UPDATE webhook_secrets SET until = ? WHERE org_id = ? AND until IS NULL"
_FORGET: Final = (
    "DELETE FROM webhook_secrets WHERE org_id = ? AND (until <= ? OR created_at NOT IN"
    " (SELECT created_at FROM webhook_secrets WHERE org_id = ? ORDER BY created_at DESC LIMIT ?))"
)
_ADD: Final = "INSERT INTO webhook_secrets (org_id, created_at, sealed) VALUES (?, ?, ?)"
_VALID: Final = (
    "SELECT created_at, sealed FROM webhook_secrets WHERE org_id = ? AND coalesce(until, 9e99) > ?"
    " ORDER BY created_at DESC"
)


def beside(org_id: str, created: str) -> bytes:
    """What a secret is sealed beside: whose it is, and which of them."""
    return json.dumps(["webhook secret", org_id, created]).encode()


def opened(vault: Vault, org_id: str, rows: Iterable[tuple[str, bytes]]) -> list[str]:
    """The secrets of rows: when each was made, and sealed. Raises SecretUnreadable if none of them opens."""
    found = [_opened(vault, org_id, *row) for row in rows]
    if found and not any(found):
        raise SecretUnreadable("the webhook secret does not open with this server's key; rotate it")
    return [secret for secret in found if secret is not None]


def check_turn(event: WebhookSecretRotated, known: str | None) -> None:
    """Whoever says that there was one before must have seen it, and whoever says that there was none as well. Raises
    Conflict; `known` is when the one that signs was made."""
    if (known is None) != (event.previous_until is None) or (known and known >= event.ts.isoformat()):
        raise Conflict("somebody else made a secret first")


def _opened(vault: Vault, org_id: str, created: str, sealed: bytes) -> str | None:
    # One that was sealed with another key does not keep a newer one from signing.
    with suppress(SecretUnreadable):
        return vault.open(sealed, beside(org_id, created))
    return None
