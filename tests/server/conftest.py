"""A real server on a loopback port, with a backend whose programs the test plays."""

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from enclave.contracts.identity import Principal, Role
from enclave.contracts.sessions import Health
from enclave.core.access import ROLES
from enclave.identity.base import Accounts, Authenticator
from enclave.identity.service import DATABASE, Identity
from enclave.orchestrator.orchestrator import Bounds, Orchestrator, Ports, ServiceBindings
from enclave.server.app import Application
from enclave.server.routes import Platform
from enclave.store.files import DirectoryFiles
from enclave.store.journal import DirectoryJournals
from enclave.store.sqlite import SqliteStore
from tests.scripted import PuppetBackend


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Tokens:
    """Knows `<role>.<org>` as a credential, and what the authority knows."""

    authority: Authenticator

    async def authenticate(self, credential: str) -> Principal:
        role, dot, org_id = credential.partition(".")
        if not dot or role not in list(Role):
            return await self.authority.authenticate(credential)
        return Principal(user_id=credential, org_id=org_id, role=Role(role), scopes=ROLES[Role(role)])


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Connection:
    """A connection of one request, read as it comes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        return int(first.split()[1]), {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)
        }

    async def chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return data

    async def chunks(self) -> bytes:
        parts = []
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        self.writer.close()


@dataclass
class Site:
    port: int
    backend: PuppetBackend
    orchestrator: Orchestrator
    server: uvicorn.Server
    identity: Identity
    home: Path
    connections: list[Connection] = field(default_factory=list)

    async def open(
        self, method: str, path: str, body: bytes = b"", *, token: str | None = "owner.org_a", **headers: str
    ) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.connections.append(connection)
        lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"Authorization: Bearer {token}"] if token is not None else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return connection

    async def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = "owner.org_a", **headers: str
    ) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        connection = await self.open(method, path, raw, token=token, **headers)
        status, heads = await connection.head()
        text = await connection.chunks() if "transfer-encoding" in heads else await connection.reader.read()
        connection.close()
        return Answer(status, heads, text)

    def restore(self, user: str) -> None:
        """Make a viewer a member again who was removed."""
        with closing(sqlite3.connect(self.home / DATABASE)) as database, database:
            database.execute("UPDATE memberships SET removed_at = NULL, role = 'viewer' WHERE user_id = ?", (user,))

    async def run(self, code: str = "pass", **headers: str) -> Any:
        return (await self.ask("POST", "/sessions", {"code": code}, **headers)).json


@asynccontextmanager
async def served(app: Application) -> AsyncIterator[uvicorn.Server]:
    config = uvicorn.Config(
        app, lifespan="off", log_level="critical", server_header=False, timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    # Uvicorn's own main loop and shutdown would cost each test a fifth of a second.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup([listener])
        await server.on_tick(0)
        yield server
        for listening in server.servers:
            listening.close()
        for task in server.server_state.tasks:
            task.cancel()
        await asyncio.sleep(0)


def seed(path: Path) -> None:
    """Two orgs with a member of each role, who calls themself as `Tokens` calls them."""
    with closing(sqlite3.connect(path)) as database, database:
        for org_id in ("org_a", "org_b"):
            database.execute("INSERT INTO orgs (id, created_at) VALUES (?, 'then')", (org_id,))
            for role in Role:
                user = f"{role}.{org_id}"
                database.execute("INSERT INTO users (id, email, created_at) VALUES (?, ?, 'then')", (user, user))
                database.execute(
                    "INSERT INTO memberships (org_id, user_id, role) VALUES (?, ?, ?)", (org_id, user, role)
                )


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store = SqliteStore.open(tmp_path / "enclave.db")
    backend = PuppetBackend()
    journals = DirectoryJournals.open(tmp_path / "journals")
    ports = Ports(store, backend, lambda: datetime.now(UTC), DirectoryFiles.open(tmp_path / "files"), journals)
    bindings = ServiceBindings(store.bindings(bytes(32)), ports.clock)
    orchestrator = Orchestrator(ports, bindings, Bounds(max_concurrency=100))
    health = Health(ok=True, backend=backend.name, backend_healthy=True)
    identity = Identity.open(tmp_path / "home", store.note, now=ports.clock)
    seed(tmp_path / "home" / DATABASE)
    accounts = Accounts(identity.keys, identity.members, identity.sign_ins)
    platform = Platform(orchestrator, Tokens(identity.authority), accounts, lambda: health)
    async with served(Application(platform)) as server:
        port = server.servers[0].sockets[0].getsockname()[1]
        site = Site(port, backend, orchestrator, server, identity, tmp_path / "home")
        yield site
        for connection in site.connections:
            connection.close()
        await orchestrator.close()
    await journals.close()
    identity.close()
    await store.close()
