"""Service bindings in PostgreSQL, their secrets sealed with a key that the database never sees."""

import json
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from enclave.contracts.audit import BindingDeleted
from enclave.contracts.bindings import Binding
from enclave.contracts.errors import Conflict, FieldProblem, NotFound
from enclave.core.binding import MAX_BINDINGS, variable
from enclave.core.grant import Grant
from enclave.store.base import Entry
from enclave.store.binding import beside, doc_of, opened
from enclave.store.chain import Events
from enclave.store.postgres.batch import Batch
from enclave.store.postgres.database import Database
from enclave.store.postgres.writer import Writer
from enclave.store.vault import Vault


class PostgresBindings:
    """The Bindings of a PostgresStore, written by its one writer."""

    def __init__(self, writer: Writer, database: Database, vault: Vault) -> None:
        self._writer = writer
        self._database = database
        self._vault = vault

    def put(self, entry: Entry) -> Awaitable[tuple[Binding, bool]]:
        """Make or replace a binding, with its event. Raises Conflict."""
        binding, org_id, doc = entry.binding, entry.event.org_id, doc_of(entry.binding)
        sealed = self._vault.seal(entry.secret, beside(org_id, binding.name, doc))
        stamp = (binding.created_at.isoformat(), binding.created_by, binding.updated_at.isoformat())
        row = (org_id, binding.name, doc, sealed, *stamp)
        return self._writer.put(_Put(org_id, binding.name, row, (entry.event,)))

    def delete(self, event: BindingDeleted) -> Awaitable[Binding]:
        """Delete a binding, with its event. Raises NotFound."""
        return self._writer.put(_Delete(event.org_id, event.name, (event,)))

    async def get(self, org_id: str, name: str) -> Binding:
        """One binding. Raises NotFound."""
        return _one(await self._database.fetch(_GET, org_id, name))

    async def find(self, org_id: str, *, after: str = "", limit: int = 50) -> Sequence[Binding]:
        """The org's bindings by name; `after` excludes a name and all before it."""
        return [_binding(row) for row in await self._database.fetch(_FIND, org_id, after, limit)]

    async def grants(self, org_id: str, names: Collection[str]) -> Mapping[str, Grant]:
        """Those of the names that the org has, with their secrets. Raises SecretUnreadable."""
        rows = await self._database.fetch(_GRANTS, org_id, list(names))
        return {row["name"]: self._grant(org_id, row) for row in rows}

    def _grant(self, org_id: str, row: Any) -> Grant:
        return opened(self._vault, (org_id, row["name"], row["doc"]), row["sealed"], lambda: _binding(row))


@dataclass(frozen=True, slots=True)
class _Put:
    org_id: str
    name: str
    row: tuple[str | bytes, ...] = field(repr=False)
    events: Events
    session_id: None = None
    in_memory: Literal[False] = False

    async def run(self, batch: Batch, sealed: Events) -> tuple[Binding, bool]:
        made = await self._is_new(batch.connection)
        await batch.connection.execute(_PUT, *self.row)
        return _one(await batch.connection.fetch(_GET, self.org_id, self.name)), made

    async def _is_new(self, connection: Any) -> bool:
        rival = await connection.fetchval(_RIVAL, self.org_id, self.name)
        if rival is not None and rival != self.name:
            message = f"sessions would find it in {variable(self.name)}, where they find {rival}"
            raise Conflict("the name is taken", errors=(FieldProblem(field="name", message=message),))
        if rival is None and await connection.fetchval(_COUNT, self.org_id) >= MAX_BINDINGS:
            raise Conflict(f"an org has at most {MAX_BINDINGS} bindings; delete one first")
        return rival is None


@dataclass(frozen=True, slots=True)
class _Delete:
    org_id: str
    name: str
    events: Events
    session_id: None = None
    in_memory: Literal[False] = False

    async def run(self, batch: Batch, sealed: Events) -> Binding:
        last = _one(await batch.connection.fetch(_GET, self.org_id, self.name))
        await batch.connection.execute("DELETE FROM bindings WHERE org_id = $1 AND name = $2", self.org_id, self.name)
        return last


_PUT: Final = (
    "INSERT INTO bindings (org_id, name, doc, sealed, created_at, created_by, updated_at)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (org_id, name) DO UPDATE"
    " SET doc = excluded.doc, sealed = excluded.sealed, updated_at = excluded.updated_at"
)
_RIVAL: Final = "SELECT name FROM bindings WHERE org_id = $1 AND replace(name, '-', '_') = replace($2, '-', '_')"
_COUNT: Final = "SELECT count(*) FROM bindings WHERE org_id = $1"
_ROW: Final = "SELECT name, doc, sealed, created_at, created_by, updated_at FROM bindings"
_GET: Final = f"{_ROW} WHERE org_id = $1 AND name = $2"
_FIND: Final = f"{_ROW} WHERE org_id = $1 AND name > $2 ORDER BY name LIMIT $3"
_GRANTS: Final = f"{_ROW} WHERE org_id = $1 AND name = ANY($2::text[])"


def _one(rows: Sequence[Any]) -> Binding:
    if not rows:
        raise NotFound
    return _binding(rows[0])


def _binding(row: Any) -> Binding:
    stamp = {"createdAt": row["created_at"], "createdBy": row["created_by"], "updatedAt": row["updated_at"]}
    return Binding.model_validate_json(json.dumps(json.loads(row["doc"]) | stamp))
