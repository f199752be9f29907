"""The composition root: settings in, a running System out. The one place where concrete parts are named."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Union

from enclave.backends.base import Backend, Check, Pool, Pooling
from enclave.backends.local import build, template
from enclave.backends.local.template import Template
from enclave.config import IdentitySettings, Settings
from enclave.contracts.errors import EnclaveError, InvalidRequest
from enclave.contracts.identity import Credential
from enclave.contracts.introspection import IdentityHealth
from enclave.contracts.operations import OF_IDENTITY
from enclave.contracts.sessions import Health
from enclave.identity.base import Accounts, Authenticator, Relay
from enclave.identity.bootstrap import bootstrap, bootstrap_service, read_service
from enclave.identity.home import private_home, replica_of, secret_key_of, signing_key_of, write_private
from enclave.identity.outbox import Sink
from enclave.identity.remote import Terms
from enclave.identity.separate import Place, separate_identity
from enclave.identity.service import Identity
from enclave.orchestrator.courier import Courier, Means
from enclave.orchestrator.orchestrator import Bounds, Keyring, Orchestrator, Ports, ServiceBindings, Webhooks
from enclave.proof import DATABASE, PUBLIC_KEY, needs_postgres
from enclave.server.app import Application, Surface
from enclave.server.call import ELSEWHERE, Platform
from enclave.server.internal import internal_routes
from enclave.source.git import Git, GitFetcher
from enclave.store.base import Store
from enclave.store.checkpoint import Checkpoints
from enclave.store.files import DirectoryFiles
from enclave.store.journal import DirectoryJournals
from enclave.store.retention import Retention
from enclave.store.signature import Signer
from enclave.store.sqlite import SqliteStore
from enclave.telemetry.prometheus import Gauge, Metrics
from enclave.telemetry.readiness import Readiness
from enclave.webhook.base import Sender
from enclave.webhook.sender import sending

if TYPE_CHECKING:
    from enclave.store.postgres.store import PostgresStore

BACKENDS: Final = "enclave.backends"
"""The entry point group in which backends announce themselves."""

FILES: Final = "files"
JOURNALS: Final = "journals"

_TICK_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 5.0
PATIENCE: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""After which pauses the end of a session is written again that could not be; then it is settled without its result."""

AnyStore = Union[SqliteStore, "PostgresStore"]
Work = Callable[[], Awaitable[None]]

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
    tick: Callable[[], Awaitable[None]]
    relay: Relay | None = None
    credential: Credential | None = None


@contextlib.asynccontextmanager
async def open_system(settings: Settings) -> AsyncIterator[System]:
    """The system of these settings; closed with the context, its sandboxes with it. Raises Unavailable.

    The port must be the real one: the credential left in the home names it.
    """
    async with contextlib.AsyncExitStack() as stack:
        private_home(settings.home)
        store = await _store(settings)
        stack.push_async_callback(store.close)
        checkpoints = _checkpoints(settings, store)
        stack.push_async_callback(_attempt, checkpoints.tick)
        sources = GitFetcher.open(settings.source_directory, settings.egress_private)
        journals = DirectoryJournals.open(settings.home / JOURNALS)
        stack.push_async_callback(journals.close)
        backend = _backend(settings)
        stack.push_async_callback(backend.close)
        await backend.start()
        metrics = Metrics(_gauges(backend, lambda: orchestrator.running()))
        kept = (DirectoryFiles.open(settings.home / FILES), store.tenancy(), journals)
        replicas = None if isinstance(store, SqliteStore) else store
        orchestrator = _orchestrator(settings, store, Ports(store, backend, _now, *kept, sources, metrics, replicas))
        stack.push_async_callback(_wind_down, orchestrator, backend)
        await orchestrator.recover()
        sender = stack.enter_context(sending(settings.egress_floor))
        stack.push_async_callback(_sending(settings, store, sender, orchestrator.webhooks.stirred))
        who = _embedded if settings.identity_url is None else _separate
        callers = await stack.enter_async_context(who(settings, orchestrator.note))
        platform = Platform(
            orchestrator,
            callers.authenticator,
            callers.accounts,
            lambda: _health(backend),
            Readiness(backend.healthy, store.check).check,
            metrics.text,
            relay=callers.relay,
        )
        for work in (
            _repeating(_TICK_SECONDS, callers.tick, _refusals(platform, store.note), orchestrator.tick),
            _repeating(_SETTLE_SECONDS, orchestrator.settle),
            _repeating(settings.checkpoint_seconds, checkpoints.tick, *_retention(settings, checkpoints)),
            asyncio.create_task(orchestrator.attend()).cancel,
        ):
            stack.callback(work)
        yield System(settings, Application(platform, observer=metrics), orchestrator, callers.credential)


@contextlib.asynccontextmanager
async def open_identity(settings: IdentitySettings) -> AsyncIterator[IdentitySystem]:
    """The identity service of these settings, closed with the context. Raises Unavailable.

    The ports must be the real ones: the credentials left in the home name them.
    """
    with contextlib.ExitStack() as stack:
        identity = _identity(settings, None)
        stack.callback(identity.close)
        owner = bootstrap(settings.home, settings.control_plane, identity.authority)
        service = bootstrap_service(settings.home, internal_url(settings), identity.service)
        platform = Platform(ELSEWHERE, identity.authority, identity.accounts, lambda: IdentityHealth(ok=True))
        stack.callback(_repeating(_TICK_SECONDS, _refusals(platform, identity.outbox.add), identity.tick))
        internal = Surface(internal_routes(platform, OF_IDENTITY, identity.service))
        yield IdentitySystem(settings, Application(platform, OF_IDENTITY), internal, identity, owner, service)


@contextlib.asynccontextmanager
async def _embedded(settings: Settings, sink: Sink) -> AsyncIterator[Callers]:
    identity = _identity(settings, sink)
    try:
        credential = bootstrap(settings.home, base_url(settings), identity.authority)
        yield Callers(identity.authority, identity.accounts, identity.tick, credential=credential)
    finally:
        identity.close()


@contextlib.asynccontextmanager
async def _separate(settings: Settings, sink: Sink) -> AsyncIterator[Callers]:
    secret = None if settings.jwt_secret is None else settings.jwt_secret.encode(errors="surrogateescape")
    place = Place(settings.identity_url or "", read_service(settings.identity_key_path).api_key, secret)
    terms = Terms(settings.identity_cache_seconds, settings.identity_grace_seconds)
    async with separate_identity(place, terms, sink, _now) as identity:
        yield Callers(identity.callers, ELSEWHERE, _nothing, relay=identity)


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


async def _store(settings: Settings) -> AnyStore:
    if settings.database_url is None:
        return SqliteStore.open(settings.home / DATABASE)
    with needs_postgres():
        from enclave.store.postgres.store import PostgresStore
    return await PostgresStore.open(settings.database_url, replica_of(settings.home))


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


def _gauges(backend: Backend, running: Callable[[], int]) -> tuple[Gauge, ...]:
    def pools() -> Mapping[str, Pool]:
        return backend.pools() if isinstance(backend, Pooling) else {}

    def of(count: Callable[[Pool], int]) -> Callable[[], list[tuple[str, float]]]:
        return lambda: [(name, count(pool)) for name, pool in pools().items()]

    return (
        Gauge(
            "sessions_running", "Sessions that are pending or running.", "backend", lambda: [(backend.name, running())]
        ),
        Gauge("pool_ready", "Sandboxes that waited when one was last taken.", "pool", of(lambda pool: pool.ready)),
        Gauge("pool_warm", "Sessions so far that found a sandbox ready.", "pool", of(lambda pool: pool.warm)),
        Gauge("pool_cold", "Sessions so far that found none ready.", "pool", of(lambda pool: pool.cold)),
    )


def _orchestrator(settings: Settings, store: AnyStore, ports: Ports) -> Orchestrator:
    key = _secret_key(settings)
    bindings = ServiceBindings(store.bindings(key), _now, settings.egress_private)
    kept = settings.session_retention
    bounds = Bounds(
        max_concurrency=settings.max_concurrency,
        file_retention=timedelta(seconds=settings.file_retention),
        session_retention=None if kept is None else timedelta(seconds=kept),
    )
    webhooks = Webhooks(store.outbox(key), Keyring(store.signing(key), _now), _now, settings.egress_private)
    return Orchestrator(replace(ports, patience=PATIENCE), bindings, bounds, webhooks)


def _sending(settings: Settings, store: AnyStore, sender: Sender, stirred: asyncio.Event) -> Work:
    """Send webhooks from now on, until what is answered is called."""
    key = _secret_key(settings)
    courier = Courier(Means(store, store.outbox(key), Keyring(store.signing(key), _now), sender, _now), stirred)
    courier.start()
    return courier.close


async def _wind_down(orchestrator: Orchestrator, backend: Backend) -> None:
    await orchestrator.close()
    await backend.close()
    # What did not let itself be stopped has lost its sandbox now, and is recorded while there is a store.
    await orchestrator.close()


def _repeating(seconds: float, *works: Work) -> Callable[[], object]:
    """Do them now and then from now on, until what is answered is called."""

    async def repeat() -> None:
        while True:
            for work in works:
                await _attempt(work)
            await asyncio.sleep(seconds)

    return asyncio.create_task(repeat()).cancel


async def _attempt(work: Work) -> None:
    # Whatever keeps one of them from its work, the others and the next time are not to suffer from it.
    try:
        await work()
    except OSError as error:
        _log.error("files cannot be read or removed: %s", error)
    except EnclaveError as error:
        _log.error("%s", error.detail)
    except Exception as error:  # noqa: BLE001  as what somebody wrote into the database by hand
        _log.error("upkeep: %r", error, exc_info=error)


def _retention(settings: Settings, checkpoints: Checkpoints) -> tuple[Work, ...]:
    age = settings.audit_retention
    return () if age is None else (Retention(checkpoints, timedelta(seconds=age)).tick,)


def _refusals(platform: Platform, sink: Sink) -> Work:
    return lambda: platform.refusals.tell(sink, _now())


async def _nothing() -> None:
    pass


def _checkpoints(settings: Settings, store: Store) -> Checkpoints:
    signer = Signer(signing_key_of(settings.home))
    write_private(settings.home / PUBLIC_KEY, f"{signer.public_key}\n")
    file = settings.checkpoint_file
    if file is None:
        return Checkpoints.to_url(store, signer, _now, settings.checkpoints or "")
    return Checkpoints.to_file(store, signer, _now, file)


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
