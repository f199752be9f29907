"""What orgs may have and what they use, in PostgreSQL."""

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

from enclave.contracts.audit import OrgPolicyChanged, OrgTermsChanged
from enclave.contracts.tenancy import OrgPolicy, OrgTerms
from enclave.core.usage import Used
from enclave.store.base import Standing
from enclave.store.chain import Events
from enclave.store.postgres.batch import Batch
from enclave.store.postgres.database import Database
from enclave.store.postgres.writer import Writer
from enclave.store.tenancy import DEFAULT


class PostgresTenancy:
    """The Tenancy of a PostgresStore, written by its one writer."""

    def __init__(self, writer: Writer, database: Database) -> None:
        self._writer = writer
        self._database = database

    def put_terms(self, event: OrgTermsChanged) -> Awaitable[None]:
        """Give an org terms, with their event."""
        return self._writer.put(_Put(_PUT_TERMS, event.org_id, event.terms.model_dump_json(), (event,)))

    def put_default(self, terms: OrgTerms) -> Awaitable[None]:
        """Give terms to every org that was given none."""
        return self._writer.put(_Put(_PUT_TERMS, DEFAULT, terms.model_dump_json(), ()))

    def put_policy(self, event: OrgPolicyChanged) -> Awaitable[None]:
        """Set an org's own policy, with its event."""
        return self._writer.put(_Put(_PUT_POLICY, event.org_id, event.policy.model_dump_json(), (event,)))

    async def default(self) -> OrgTerms:
        """The terms of every org that was given none."""
        found = await self._database.fetch("SELECT doc FROM terms WHERE org_id = $1", DEFAULT)
        return OrgTerms.model_validate_json(found[0][0]) if found else OrgTerms()

    async def standing(self, org_id: str, day: date) -> Standing:
        """What is written of an org."""
        ((terms, policy, *used),) = await self._database.fetch(_STANDING, org_id, day.isoformat())
        return Standing(
            OrgTerms.model_validate_json(terms) if terms else None,
            OrgPolicy.model_validate_json(policy) if policy else OrgPolicy(),
            Used(day, *used),
        )


@dataclass(frozen=True, slots=True)
class _Put:
    statement: str
    org_id: str
    doc: str
    events: Events
    session_id: None = None
    in_memory: Literal[False] = False

    async def run(self, batch: Batch, sealed: Events) -> None:
        await batch.connection.execute(self.statement, self.org_id, self.doc)


_PUT: Final = "INSERT INTO {} (org_id, doc) VALUES ($1, $2) ON CONFLICT (org_id) DO UPDATE SET doc = excluded.doc"
_PUT_TERMS: Final = _PUT.format("terms")
_PUT_POLICY: Final = _PUT.format("policies")
_STANDING: Final = (
    "SELECT (SELECT doc FROM terms WHERE org_id = $1), (SELECT doc FROM policies WHERE org_id = $1),"
    " coalesce(cpu_seconds, 0), coalesce(egress_bytes, 0)"
    " FROM (VALUES (1)) AS one LEFT JOIN usage ON org_id = $1 AND day = $2"
)
