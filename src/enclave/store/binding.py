"""Service bindings in the SQLite file, their secrets sealed."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from enclave.contracts.audit import BindingDeleted
from enclave.contracts.bindings import Binding
from enclave.contracts.errors import Conflict, FieldProblem, NotFound, SecretUnreadable
from enclave.core.binding import MAX_BINDINGS, grant_of, variable
from enclave.core.grant import Grant
from enclave.store.base import Entry
from enclave.store.chain import Events
from enclave.store.reader import Readers
from enclave.store.vault import Vault
from enclave.store.writer import Writer


class SqliteBindings:
    """The Bindings of a SqliteStore, written by its one writer."""

    def __init__(self, writer: Writer, readers: Readers, vault: Vault) -> None:
        self._writer = writer
        self._readers = readers
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
        return await self._readers.run(lambda connection: _get(connection, org_id, name))

    async def find(self, org_id: str, *, after: str = "", limit: int = 50) -> Sequence[Binding]:
        """The org's bindings by name; `after` excludes a name and all before it."""
        return await self._readers.run(lambda connection: _find(connection, org_id, after, limit))

    async def grants(self, org_id: str, names: Collection[str]) -> Mapping[str, Grant]:
        """Those of the names that the org has, with their secrets. Raises SecretUnreadable."""
        found = await self._readers.run(lambda connection: {name: _row(connection, org_id, name) for name in names})
        return {name: self._grant(org_id, name, row) for name, row in found.items() if row is not None}

    def _grant(self, org_id: str, name: str, row: "_Row") -> Grant:
        whole, doc, sealed = row
        return opened(self._vault, (org_id, name, doc), sealed, lambda: Binding.model_validate_json(whole))


@dataclass(frozen=True, slots=True)
class _Put:
    org_id: str
    name: str
    row: tuple[str | bytes, ...] = field(repr=False)
    events: Events

    def run(self, connection: sqlite3.Connection, sealed: Events) -> tuple[Binding, bool]:
        made = self._is_new(connection)
        connection.execute(_PUT, self.row)
        return _get(connection, self.org_id, self.name), made

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        rival = connection.execute(_RIVAL, (self.org_id, self.name)).fetchone()
        if rival is not None and rival[0] != self.name:
            message = f"sessions would find it in {variable(self.name)}, where they find {rival[0]}"
            raise Conflict("the name is taken", errors=(FieldProblem(field="name", message=message),))
        if rival is None and connection.execute(_COUNT, (self.org_id,)).fetchone()[0] >= MAX_BINDINGS:
            raise Conflict(f"an org has at most {MAX_BINDINGS} bindings; delete one first")
        return rival is None


@dataclass(frozen=True, slots=True)
class _Delete:
    org_id: str
    name: str
    events: Events

    def run(self, connection: sqlite3.Connection, sealed: Events) -> Binding:
        last = _get(connection, self.org_id, self.name)
        connection.execute("DELETE FROM bindings WHERE org_id = ? AND name = ?", (self.org_id, self.name))
        return last


_Row = tuple[str, str, bytes]
"""A binding as it is shown, as it was sealed beside, and its sealed secret."""

_PUT: Final = (
    "INSERT INTO bindings (org_id, name, doc, sealed, created_at, created_by, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (org_id, name) DO UPDATE"
    " SET doc = excluded.doc, sealed = excluded.sealed, updated_at = excluded.updated_at"
)
_RIVAL: Final = "SELECT name FROM bindings WHERE org_id = ? AND replace(name, '-', '_') = replace(?, '-', '_')"
_COUNT: Final = "SELECT count(*) FROM bindings WHERE org_id = ?"
_WHOLE: Final = "json_insert(doc, '$.createdAt', created_at, '$.createdBy', created_by, '$.updatedAt', updated_at)"
_GET: Final = f"SELECT {_WHOLE}, doc, sealed FROM bindings WHERE org_id = ? AND name = ?"  # noqa: S608  values are bound
_FIND: Final = f"SELECT {_WHOLE} FROM bindings WHERE org_id = ? AND name > ? ORDER BY name LIMIT ?"  # noqa: S608  values are bound


def doc_of(binding: Binding) -> str:
    """A binding as it is stored and as its secret is sealed beside: without who made it and when."""
    return binding.model_dump_json(exclude={"created_at", "created_by", "updated_at"})


def beside(org_id: str, name: str, doc: str) -> bytes:
    """What a secret is sealed beside: whose it is, and all that says where and how it is used."""
    return json.dumps([org_id, name, doc]).encode()


def opened(vault: Vault, place: tuple[str, str, str], sealed: bytes, binding: Callable[[], Binding]) -> Grant:
    """A binding's grant, by its org, its name and its document. Raises SecretUnreadable before any is believed."""
    try:
        secret = vault.open(sealed, beside(*place))
    except SecretUnreadable as error:
        raise SecretUnreadable(f"binding {place[1]}: {error.detail}") from None
    return grant_of(binding(), secret)


def _get(connection: sqlite3.Connection, org_id: str, name: str) -> Binding:
    row = _row(connection, org_id, name)
    if row is None:
        raise NotFound
    return Binding.model_validate_json(row[0])


def _row(connection: sqlite3.Connection, org_id: str, name: str) -> _Row | None:
    row: _Row | None = connection.execute(_GET, (org_id, name)).fetchone()
    return row


def _find(connection: sqlite3.Connection, org_id: str, after: str, limit: int) -> list[Binding]:
    return [Binding.model_validate_json(whole) for (whole,) in connection.execute(_FIND, (org_id, after, limit))]
