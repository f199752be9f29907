"""The composition root: settings in, a running System out. The one place where concrete parts are named."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import Final

from enclave.backends.base import Backend, Check
from enclave.backends.local import build, template
from enclave.backends.local.template import Template
from enclave.config import IdentitySettings, Settings
from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.identity import Credential
from enclave.contracts.introspection import IdentityHealth
from enclave.contracts.operations import OF_IDENTITY
from enclave.contracts.sessions import Health
from enclave.identity.base import Accounts, Authenticator, Relay
from enclave.identity.bootstrap import bootstrap, bootstrap_service, read_service
from enclave.identity.home import private_home, secret_key_of
from enclave.identity.outbox import Sink
from enclave.identity.remote import Terms
from enclave.identity.separate import Place, separate_identity
from enclave.identity.service import Identity
from enclave.orchestrator.orchestrator import Bounds, Orchestrator, Ports, ServiceBindings
from enclave.server.app import Application, Surface
from enclave.server.call import ELSEWHERE, Platform
from enclave.server.internal import internal_routes
from enclave.source.base import SourceFetcher
from enclave.source.git import Git, GitFetcher
from enclave.store.files import DirectoryFiles
from enclave.store.sqlite import SqliteStore

BACKENDS: Final = "enclave.backends"
"""The entry point group in which backends announce themselves."""

DATABASE: Final = "enclave.db"
FILES: Final = "files"

_TICK_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where to reach one that listens everywhere


@dataclass(frozen=True, slots=True)
class System:
    """A whole control plane that runs. The credential is the owner's; the identity service keeps it where that is
    another process."""

    settings: Settings
    app: Application
    orchestrator: Orchestrator
    credential: Credential | None


@dataclass(frozen=True, slots=True)
class IdentitySystem:
    """A whole identity service that runs: what callers reach, what control planes do, and the two credentials that are
    left in its home, the owner's and that of control planes."""

    settings: IdentitySettings
    public: Surface
    internal: Surface
    identity: Identity
    owner: Credential
    service: Credential


@dataclass(frozen=True, slots=True)
class Callers:
    """The identity authority, here or in another process, as a control plane uses it."""

    authenticator: Authenticator
    accounts: Accounts
    relay: Relay | None = None
    credential: Credential | None = None
    tick: Callable[[], Awaitable[None]] | None = None


@contextlib.asynccontextmanager
async def open_system(settings: Settings) -> AsyncIterator[System]:
    """The system of these settings; closed with the context, its sandboxes with it. Raises Unavailable.

    The port must be the real one: the credential left in the home names it.
    """
    async with contextlib.AsyncExitStack() as stack:
        private_home(settings.home)
        store = SqliteStore.open(settings.home / DATABASE)
        stack.push_async_callback(store.close)
        who = _embedded if settings.identity_url is None else _separate
        callers = await stack.enter_async_context(who(settings, store.note))
        sources = GitFetcher.open(settings.source_directory, settings.egress_private)
        backend = _backend(settings)
        stack.push_async_callback(backend.close)
        await backend.start()
        orchestrator = _orchestrator(settings, store, backend, sources)
        stack.push_async_callback(orchestrator.close)
        await orchestrator.recover()
        platform = Platform(
            orchestrator, callers.authenticator, callers.accounts, lambda: _health(backend), relay=callers.relay
        )
        ticking = asyncio.create_task(_tick(platform, callers.tick, store.note))
        stack.callback(ticking.cancel)
        yield System(settings, Application(platform), orchestrator, callers.credential)


@contextlib.asynccontextmanager
async def open_identity(settings: IdentitySettings) -> AsyncIterator[IdentitySystem]:
    """The identity service of these settings, closed with the context. Raises Unavailable.

    The ports must be the real ones: the credentials left in the home name them.
    """
    identity = _identity(settings, None)
    try:
        owner = bootstrap(settings.home, settings.control_plane, identity.authority)
        service = bootstrap_service(settings.home, internal_url(settings), identity.service)
        platform = Platform(ELSEWHERE, identity.authority, identity.accounts, lambda: IdentityHealth(ok=True))
        ticking = asyncio.create_task(_tick_identity(platform, identity))
        internal = Surface(internal_routes(platform, OF_IDENTITY, identity.service))
        yield IdentitySystem(settings, Application(platform, OF_IDENTITY), internal, identity, owner, service)
        ticking.cancel()
    finally:
        identity.close()


@contextlib.asynccontextmanager
async def _embedded(settings: Settings, sink: Sink) -> AsyncIterator[Callers]:
    identity = _identity(settings, sink)
    try:
        credential = bootstrap(settings.home, base_url(settings), identity.authority)
        yield Callers(identity.authority, identity.accounts, credential=credential, tick=identity.tick)
    finally:
        identity.close()


@contextlib.asynccontextmanager
async def _separate(settings: Settings, sink: Sink) -> AsyncIterator[Callers]:
    secret = None if settings.jwt_secret is None else settings.jwt_secret.encode(errors="surrogateescape")
    place = Place(settings.identity_url or "", read_service(settings.identity_key_path).api_key, secret)
    terms = Terms(settings.identity_cache_seconds, settings.identity_grace_seconds)
    async with separate_identity(place, terms, sink, _now) as identity:
        yield Callers(identity.callers, ELSEWHERE, relay=identity)


def diagnose(settings: Settings) -> tuple[Check, ...]:
    """What this machine can enforce, and what to do about the rest; starts nothing."""
    return (*_backend(settings).probe(), _git())


def _git() -> Check:
    found = Git.find()
    detail = found.version if found else "not installed, or too old"
    return Check("git", found is not None, detail, "apt-get install git (2.37 or newer)", essential=False)


wanted_template: Final = build.wanted
"""What `build_template` is asked for."""


def build_template(settings: Settings, asked: Template) -> Template:
    """Make a template in the home. Raises InvalidRequest or Unavailable, and leaves nothing behind, if it cannot be."""
    private_home(settings.home)
    return build.build(settings.template_directory, asked)


def list_templates(settings: Settings) -> tuple[Template, ...]:
    """The templates in the home, by name."""
    return template.templates(settings.template_directory)


def remove_template(settings: Settings, name: str) -> None:
    """Remove a template from the home. Raises InvalidRequest if there is none of that name."""
    template.remove(settings.template_directory, name)


def base_url(settings: Settings) -> str:
    """Where a client on this machine reaches the server."""
    return _url(settings.host, settings.port)


def identity_url(settings: IdentitySettings) -> str:
    """Where a client on this machine reaches the identity service."""
    return _url(settings.host, settings.port)


def internal_url(settings: IdentitySettings) -> str:
    """Where a control plane on this machine reaches it."""
    if settings.internal_socket is not None:
        return f"unix:{settings.internal_socket.absolute()}"
    return _url(settings.internal_host, settings.internal_port)


def _url(host: str, port: int) -> str:
    host = _EVERYWHERE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _identity(settings: Settings | IdentitySettings, sink: Sink | None) -> Identity:
    return Identity.open(
        settings.home, sink, now=_now, jwt_secret=settings.jwt_secret, orgs_per_user=settings.orgs_per_user
    )


def _orchestrator(
    settings: Settings, store: SqliteStore, backend: Backend, sources: SourceFetcher | None
) -> Orchestrator:
    ports = Ports(store, backend, _now, DirectoryFiles.open(settings.home / FILES), sources)
    bindings = ServiceBindings(store.bindings(_secret_key(settings)), _now, settings.egress_private)
    retention = timedelta(seconds=settings.file_retention)
    return Orchestrator(ports, bindings, Bounds(max_concurrency=settings.max_concurrency, file_retention=retention))


async def _tick(platform: Platform, tick_identity: Callable[[], Awaitable[None]] | None, sink: Sink) -> None:
    while True:
        try:
            if tick_identity is not None:
                await tick_identity()
            await platform.refusals.tell(sink, _now())
            await platform.orchestrator.tick()
        except OSError as error:
            _log.error("files cannot be removed: %s", error)
        except Unavailable as error:
            _log.error("%s", error.detail)
        await asyncio.sleep(_TICK_SECONDS)


async def _tick_identity(platform: Platform, identity: Identity) -> None:
    while True:
        try:
            await platform.refusals.tell(identity.outbox.add, _now())
            await identity.tick()
        except Unavailable as error:
            _log.error("%s", error.detail)
        await asyncio.sleep(_TICK_SECONDS)


def _backend(settings: Settings) -> Backend:
    found = entry_points(group=BACKENDS)
    if settings.backend not in found.names:
        raise InvalidRequest(f"ENCLAVE_BACKEND must be one of: {', '.join(sorted(found.names))}")
    make = found[settings.backend].load()
    backend: Backend = make(
        home=settings.home,
        pool=settings.pool,
        templates=settings.template_directory,
        egress=settings.egress_floor,
        sources=settings.source_directory,
    )
    return backend


def _secret_key(settings: Settings) -> bytes:
    return settings.secret_key or secret_key_of(settings.home)


def _health(backend: Backend) -> Health:
    return Health(ok=True, backend=backend.name, backend_healthy=backend.healthy())


def _now() -> datetime:
    return datetime.now(UTC)
