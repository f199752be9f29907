"""What orgs may have and what they use, in the SQLite file."""

import sqlite3
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import date
from typing import Final

from enclave.contracts.audit import OrgPolicyChanged, OrgTermsChanged
from enclave.contracts.tenancy import OrgPolicy, OrgTerms
from enclave.core.usage import Used
from enclave.store.base import Standing
from enclave.store.reader import Readers
from enclave.store.writer import Events, Writer

DEFAULT: Final = "default"


class SqliteTenancy:
    """The Tenancy of a SqliteStore, written by its one writer."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

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
        return await self._readers.run(lambda connection: _terms(connection, DEFAULT)) or OrgTerms()

    async def standing(self, org_id: str, day: date) -> Standing:
        """What is written of an org."""
        return await self._readers.run(lambda connection: _standing(connection, org_id, day))


@dataclass(frozen=True, slots=True)
class _Put:
    statement: str
    org_id: str
    doc: str
    events: Events

    def run(self, connection: sqlite3.Connection, sealed: Events) -> None:
        connection.execute(self.statement, (self.org_id, self.doc))


_PUT_TERMS: Final = "INSERT OR REPLACE INTO terms (org_id, doc) VALUES (?, ?)"
_PUT_POLICY: Final = "INSERT OR REPLACE INTO policies (org_id, doc) VALUES (?, ?)"
_TERMS: Final = "SELECT doc FROM terms WHERE org_id = ?"
_POLICY: Final = "SELECT doc FROM policies WHERE org_id = ?"
_USED: Final = "SELECT cpu_seconds, egress_bytes FROM usage WHERE org_id = ? AND day = ?"


def _standing(connection: sqlite3.Connection, org_id: str, day: date) -> Standing:
    policy = connection.execute(_POLICY, (org_id,)).fetchone()
    used = connection.execute(_USED, (org_id, day.isoformat())).fetchone() or (0.0, 0)
    return Standing(
        _terms(connection, org_id),
        OrgPolicy.model_validate_json(policy[0]) if policy else OrgPolicy(),
        Used(day, *used),
    )


def _terms(connection: sqlite3.Connection, org_id: str) -> OrgTerms | None:
    row = connection.execute(_TERMS, (org_id,)).fetchone()
    return OrgTerms.model_validate_json(row[0]) if row else None
