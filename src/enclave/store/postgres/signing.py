"""The secrets that orgs' webhooks are signed with, in PostgreSQL, sealed with a key that the database never sees."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from enclave.contracts.webhooks import WebhookSecretRotated
from enclave.core.webhook import MAX_SECRETS
from enclave.store.chain import Events
from enclave.store.postgres.batch import Batch
from enclave.store.postgres.database import Database
from enclave.store.postgres.writer import Writer
from enclave.store.signing import beside, check_turn, opened
from enclave.store.vault import Vault


class PostgresSigning:
    """The Signing of a PostgresStore, written by its one writer."""

    def __init__(self, writer: Writer, database: Database, vault: Vault) -> None:
        self._writer = writer
        self._database = database
        self._vault = vault

    def rotate(self, secret: str, event: WebhookSecretRotated) -> Awaitable[None]:
        """Sign with a secret from now on, and with those before until the event's moment. Raises Conflict."""
        sealed = self._vault.seal(secret, beside(event.org_id, event.ts.isoformat()))
        return self._writer.put(_Rotate(event, sealed))

    async def has_one(self, org_id: str) -> bool:
        """Whether there is anything that an org's webhooks are signed with."""
        return bool(await self._database.fetch(_CURRENT, org_id))

    async def secrets(self, org_id: str, at: datetime) -> Sequence[str]:
        """What an org's webhooks are signed with at a moment, the newest first. Raises SecretUnreadable."""
        rows = await self._database.fetch(_VALID, org_id, at.timestamp())
        return opened(self._vault, org_id, [(created, sealed) for created, sealed in rows])


@dataclass(frozen=True, slots=True)
class _Rotate:
    event: WebhookSecretRotated
    sealed: bytes = field(repr=False)
    session_id: None = None
    in_memory: Literal[False] = False

    @property
    def org_id(self) -> str:
        return self.event.org_id

    @property
    def events(self) -> Events:
        return (self.event,)

    async def run(self, batch: Batch, sealed: Events) -> None:
        # Nobody else writes of this org meanwhile: its chain is held.
        event, execute = self.event, batch.connection.execute
        check_turn(event, await batch.connection.fetchval(_CURRENT, self.org_id))
        if event.previous_until is not None:
            await execute(_RETIRE, event.previous_until.timestamp(), self.org_id)
        await execute(_FORGET, self.org_id, event.ts.timestamp(), MAX_SECRETS - 1)
        await execute(_ADD, self.org_id, event.ts.isoformat(), self.sealed)


_CURRENT: Final = "SELECT created_at FROM webhook_secrets WHERE org_id = $1 AND until IS NULL"
_RETIRE: Final = "UPDATE webhook_secrets SET until = $1 WHERE org_id = $2 AND until IS NULL"
_FORGET: Final = (
    "DELETE FROM webhook_secrets WHERE org_id = $1 AND (until <= $2 OR created_at NOT IN"
    " (SELECT created_at FROM webhook_secrets WHERE org_id = $1 ORDER BY created_at DESC LIMIT $3))"
)
_ADD: Final = "INSERT INTO webhook_secrets (org_id, created_at, sealed) VALUES ($1, $2, $3)"
_VALID: Final = (
    "SELECT created_at, sealed FROM webhook_secrets WHERE org_id = $1 AND (until IS NULL OR until > $2)"
    " ORDER BY created_at DESC"
)
