"""Webhooks that are due, under way or over, in PostgreSQL: sent by whichever control plane claims them first."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from enclave.contracts.errors import Conflict, NotFound
from enclave.contracts.sessions import Phase
from enclave.contracts.webhooks import Delivery, WebhookRedelivered
from enclave.core.session import Callback
from enclave.core.webhook import session_of_delivery
from enclave.store.base import Attempt, Due, Held, Share
from enclave.store.chain import Events
from enclave.store.outbox import COLUMNS, delivery, opened_url, sealed_callback
from enclave.store.postgres.batch import Batch
from enclave.store.postgres.database import Database
from enclave.store.postgres.writer import Writer
from enclave.store.vault import Vault


class PostgresOutbox:
    """The Outbox of a PostgresStore: what has events is written by its one writer."""

    def __init__(self, writer: Writer, database: Database, vault: Vault) -> None:
        self._writer = writer
        self._database = database
        self._vault = vault

    def seal(self, session_id: str, host: str, url: str) -> Callback:
        """A callback for a session that is to be created."""
        return sealed_callback(self._vault, session_id, host, url)

    def url(self, claimed: Held) -> str:
        """Where a webhook goes. Raises SecretUnreadable."""
        return opened_url(self._vault, claimed)

    async def due(self, at: datetime, share: Share) -> Sequence[Due]:
        """What is to be sent and is nobody's, each org's in turn."""
        return [Due(*row) for row in await self._database.fetch(_DUE, at.timestamp(), share.host, share.org, share.all)]

    async def claim(self, due: Due, at: datetime, until: datetime) -> Held:
        """Take a webhook for oneself. Raises Conflict if it is not due any more, or somebody else's."""
        # Not by the writer: it needs no chain. If the answer is lost, it is claimed by nobody who sends it.
        rows = await self._database.fetch(_CLAIM, until.timestamp(), due.session_id, at.timestamp())
        if not rows:
            raise Conflict("the webhook is not due")
        phase, attempts, url = rows[0]
        return Held(due, Phase(phase), attempts, url, until)

    def settle(self, attempt: Attempt) -> Awaitable[None]:
        """Write what became of an attempt. Raises Conflict if the claim is not in force any more."""
        return self._writer.put(_Settle(attempt))

    async def find(
        self, org_id: str, *, session_id: str | None = None, before: str | None = None, limit: int = 50
    ) -> Sequence[Delivery]:
        """The org's webhooks, newest session first."""
        return [delivery(tuple(row)) for row in await self._database.fetch(_FIND, org_id, session_id, before, limit)]

    def redeliver(self, event: WebhookRedelivered) -> Awaitable[Delivery]:
        """Make a webhook due, with its event. Raises NotFound."""
        return self._writer.put(Redelivery(event.org_id, event.delivery_id, (event,)))


@dataclass(frozen=True, slots=True)
class _Settle:
    attempt: Attempt
    session_id: None = None
    in_memory: Literal[False] = False

    @property
    def org_id(self) -> str:
        return self.attempt.claimed.due.org_id

    @property
    def events(self) -> Events:
        return self.attempt.events

    async def run(self, batch: Batch, sealed: Events) -> None:
        made, claimed = self.attempt, self.attempt.claimed
        at = made.at.timestamp()
        next_at = None if made.next_at is None else made.next_at.timestamp()
        delivered_at = at if made.error is None else None
        state = (at, made.status, made.error, next_at, delivered_at)
        place = (claimed.due.session_id, claimed.until.timestamp())
        if await batch.connection.fetchval(_SETTLE, *state, *place) is None:
            raise Conflict("the claim is not in force any more")


@dataclass(frozen=True, slots=True)
class Redelivery:
    """A webhook to be sent again, with its event; answers with what is told of it then."""

    org_id: str
    delivery_id: str
    events: Events
    session_id: None = None
    in_memory: Literal[False] = False

    async def run(self, batch: Batch, sealed: Events) -> Delivery:
        """Make it due. Raises NotFound."""
        place = (self.org_id, *session_of_delivery(self.delivery_id))
        row = await batch.connection.fetchrow(_AGAIN, self.events[0].ts.timestamp(), *place)
        if row is None:
            raise NotFound
        return delivery(tuple(row))


# As in the SQLite file: of each host its oldest, of each org its hosts in turn, and of all the orgs in turn.
_DUE: Final = """
    WITH waiting AS (
        SELECT org_id, host, session_id, due_at,
            row_number() OVER (PARTITION BY org_id, host ORDER BY due_at, session_id) AS place
        FROM deliveries WHERE due_at <= $1 AND coalesce(claimed_until, 0) <= $1
    ), offered AS (
        SELECT org_id, host, session_id, due_at,
            row_number() OVER (PARTITION BY org_id ORDER BY place, due_at, session_id) AS turn
        FROM waiting WHERE place <= $2
    )
    SELECT org_id, host, session_id FROM offered WHERE turn <= $3 ORDER BY turn, due_at, session_id LIMIT $4
"""
# Of two that claim one, the second waits for the first, and then looks again.
_CLAIM: Final = (
    "UPDATE deliveries SET claimed_until = $1 WHERE session_id = $2 AND due_at <= $3"
    " AND coalesce(claimed_until, 0) <= $3 RETURNING phase, attempts, sealed"
)
_SETTLE: Final = (
    "UPDATE deliveries SET claimed_until = NULL, attempts = attempts + 1, attempted_at = $1, status = $2, error = $3,"
    " due_at = $4, delivered_at = $5 WHERE session_id = $6 AND claimed_until = $7 RETURNING 1"
)
# The session is held, so that nobody forgets it meanwhile.
_AGAIN: Final = (
    "UPDATE deliveries SET due_at = $1, attempts = 0, delivered_at = NULL WHERE org_id = $2 AND phase = $4"  # noqa: S608  values are bound
    f" AND session_id = (SELECT id FROM sessions WHERE id = $3 FOR KEY SHARE) RETURNING {COLUMNS}"
)
_FIND: Final = (
    f"SELECT {COLUMNS} FROM deliveries WHERE org_id = $1 AND phase IS NOT NULL"  # noqa: S608  values are bound
    " AND ($2::text IS NULL OR session_id = $2) AND ($3::text IS NULL OR session_id < $3)"
    " ORDER BY session_id DESC LIMIT $4"
)
