"""A real server on a loopback port, with a backend whose programs the test plays."""

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp

from enclave.contracts.errors import Forbidden
from enclave.contracts.identity import Principal, Role
from enclave.contracts.operations import OF_IDENTITY
from enclave.contracts.sessions import Health
from enclave.core.access import ROLES
from enclave.identity.base import Authenticator
from enclave.identity.outbox import Sink
from enclave.identity.remote import Terms
from enclave.identity.separate import Place, SeparateIdentity, separate_identity
from enclave.identity.service import DATABASE, Identity
from enclave.orchestrator.orchestrator import Bounds, Keyring, Orchestrator, Ports, ServiceBindings, Webhooks
from enclave.server.app import Application, Surface
from enclave.server.call import ELSEWHERE, Platform
from enclave.server.internal import internal_routes
from enclave.store.files import DirectoryFiles
from enclave.store.journal import DirectoryJournals
from enclave.store.sqlite import SqliteStore
from enclave.telemetry.prometheus import Metrics
from enclave.telemetry.readiness import Readiness
from tests.identity.tokens import issue_token
from tests.scripted import PuppetBackend

SPARE = "org_spare"
"""An org whose members nobody calls as, to be disabled."""

JWT_SECRET = "a secret that no token of another server is signed with"


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

    async def authenticate_operator(self, credential: str) -> None:
        if credential.partition(".")[0] in list(Role):
            raise Forbidden
        await self.authority.authenticate_operator(credential)


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
    platform: Platform
    store: SqliteStore
    inner: Platform | None = None
    connections: list[Connection] = field(default_factory=list)

    async def open(
        self, method: str, path: str, body: bytes = b"", *, token: str | None = "owner.org_a", **headers: str
    ) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.connections.append(connection)
        lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"Authorization: Bearer {self.bearer(token)}"] if token is not None else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return connection

    async def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = "owner.org_a", **headers: str
    ) -> Answer:
        if path.startswith("/audit"):
            await self.settle()
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        connection = await self.open(method, path, raw, token=token, **headers)
        status, heads = await connection.head()
        text = await connection.chunks() if "transfer-encoding" in heads else await connection.reader.read()
        connection.close()
        return Answer(status, heads, text)

    def bearer(self, token: str) -> str:
        """The same caller, as one whom an identity service of its own knows."""
        role, _, org_id = token.partition(".")
        if self.inner is None or role not in list(Role):
            return token
        return issue_token(secret=JWT_SECRET, sub=token, orgId=org_id, role=role)

    async def settle(self) -> None:
        """Wait until what the identity service has to tell is in the chain."""
        with closing(sqlite3.connect(self.home / DATABASE)) as database:
            while database.execute("SELECT count(*) FROM outbox").fetchone()[0]:  # noqa: ASYNC110  of the other side
                await asyncio.sleep(0)

    def restore(self, user: str) -> None:
        """Make a viewer a member again who was removed."""
        with closing(sqlite3.connect(self.home / DATABASE)) as database, database:
            database.execute("UPDATE memberships SET removed_at = NULL, role = 'viewer' WHERE user_id = ?", (user,))

    async def tell(self) -> None:
        """Tell what waits to be told."""
        if self.inner is not None:
            await self.inner.refusals.tell(self.identity.outbox.add, datetime.now(UTC))
        await self.identity.tick()
        await self.platform.refusals.tell(self.store.note, datetime.now(UTC))

    async def run(self, code: str = "pass", **headers: str) -> Any:
        return (await self.ask("POST", "/sessions", {"code": code}, **headers)).json


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[uvicorn.Server]:
    config = uvicorn.Config(
        app, lifespan="off", log_level="critical", server_header=False, timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    # Uvicorn's own main loop and shutdown would cost each test a fifth of a second.
    # With its protocol named, asyncio does not let an answer on a kept connection wait for the client's ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
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
    then = datetime.now(UTC).isoformat()
    with closing(sqlite3.connect(path)) as database, database:
        for org_id in ("org_a", "org_b", SPARE):
            database.execute("INSERT INTO orgs (id, created_at) VALUES (?, ?)", (org_id, then))
            for role in Role:
                user = f"{role}.{org_id}"
                database.execute("INSERT INTO users (id, email, created_at) VALUES (?, ?, ?)", (user, user, then))
                database.execute(
                    "INSERT INTO memberships (org_id, user_id, role) VALUES (?, ?, ?)", (org_id, user, role)
                )


BOTH = ("embedded", "separate")
"""The `SITES` of a module that is run with the identity authority in this process, and over the wire."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    sites = getattr(metafunc.module, "SITES", None)
    if sites is not None and "site" in metafunc.fixturenames:
        metafunc.parametrize("site", sites, indirect=True)


@asynccontextmanager
async def elsewhere(identity: Identity, inner: Platform, sink: Sink) -> AsyncIterator[SeparateIdentity]:
    """An identity authority as a control plane in another process has it: over real sockets, and nothing remembered."""
    async with served(Surface(internal_routes(inner, OF_IDENTITY, identity.service))) as server:
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        place = Place(url, str(identity.service.issue()))
        async with separate_identity(place, Terms(0, 0), sink, lambda: datetime.now(UTC)) as remote:
            yield remote
            identity.outbox.close()


@pytest.fixture
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    separate = getattr(request, "param", "embedded") == "separate"
    store = SqliteStore.open(tmp_path / "enclave.db")
    backend = PuppetBackend()
    metrics = Metrics()
    files, journals = DirectoryFiles.open(tmp_path / "files"), DirectoryJournals.open(tmp_path / "journals")
    ports = Ports(store, backend, lambda: datetime.now(UTC), files, store.tenancy(), journals, observer=metrics)
    bindings = ServiceBindings(store.bindings(bytes(32)), ports.clock)
    webhooks = Webhooks(store.outbox(bytes(32)), Keyring(store.signing(bytes(32)), ports.clock), ports.clock)
    orchestrator = Orchestrator(ports, bindings, Bounds(max_concurrency=100), webhooks)
    health = Health(ok=True, backend=backend.name, backend_healthy=True)
    sink = None if separate else orchestrator.note
    identity = Identity.open(tmp_path / "home", sink, now=ports.clock, jwt_secret=JWT_SECRET)
    seed(tmp_path / "home" / DATABASE)
    inner = Platform(ELSEWHERE, identity.authority, identity.accounts, ELSEWHERE) if separate else None
    ready = Readiness(backend.healthy, store.check)
    platform = Platform(
        orchestrator, Tokens(identity.authority), identity.accounts, lambda: health, ready.check, metrics.text
    )
    async with AsyncExitStack() as stack:
        if inner is not None:
            remote = await stack.enter_async_context(elsewhere(identity, inner, orchestrator.note))
            platform = replace(platform, authenticator=remote.callers, accounts=ELSEWHERE, relay=remote)
        server = await stack.enter_async_context(served(Application(platform, observer=metrics)))
        port = server.servers[0].sockets[0].getsockname()[1]
        site = Site(port, backend, orchestrator, server, identity, tmp_path / "home", platform, store, inner)
        yield site
        for connection in site.connections:
            connection.close()
        await orchestrator.close()
    await journals.close()
    identity.close()
    await store.close()
