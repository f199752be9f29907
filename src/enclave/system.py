"""The composition root: settings in, a running System out. The one place where concrete parts are named."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import Final

from enclave.backends.base import Backend, Check
from enclave.backends.local import build, template
from enclave.backends.local.template import Template
from enclave.config import Settings
from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.identity import Credential
from enclave.contracts.sessions import Health
from enclave.identity.bootstrap import bootstrap
from enclave.identity.home import private_home, secret_key_of
from enclave.identity.service import Identity
from enclave.orchestrator.orchestrator import Bounds, Orchestrator, Ports, ServiceBindings
from enclave.server.app import Application
from enclave.server.call import Platform
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
    """A whole control plane that runs."""

    settings: Settings
    app: Application
    orchestrator: Orchestrator
    credential: Credential


@contextlib.asynccontextmanager
async def open_system(settings: Settings) -> AsyncIterator[System]:
    """The system of these settings; closed with the context, its sandboxes with it. Raises Unavailable.

    The port must be the real one: the credential left in the home names it.
    """
    async with contextlib.AsyncExitStack() as stack:
        private_home(settings.home)
        store = SqliteStore.open(settings.home / DATABASE)
        stack.push_async_callback(store.close)
        sources = GitFetcher.open(settings.source_directory, settings.egress_private)
        backend = _backend(settings)
        stack.push_async_callback(backend.close)
        await backend.start()
        orchestrator = _orchestrator(settings, store, backend, sources)
        stack.push_async_callback(orchestrator.close)
        await orchestrator.recover()
        identity = _identity(settings, orchestrator)
        stack.callback(identity.close)
        credential = bootstrap(settings.home, base_url(settings), identity.authority)
        platform = Platform(orchestrator, identity.authority, identity.accounts, lambda: _health(backend))
        ticking = asyncio.create_task(_tick(platform, identity, store))
        stack.callback(ticking.cancel)
        yield System(settings, Application(platform), orchestrator, credential)


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
    host = _EVERYWHERE.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _identity(settings: Settings, orchestrator: Orchestrator) -> Identity:
    return Identity.open(
        settings.home, orchestrator.note, now=_now, jwt_secret=settings.jwt_secret, orgs_per_user=settings.orgs_per_user
    )


def _orchestrator(
    settings: Settings, store: SqliteStore, backend: Backend, sources: SourceFetcher | None
) -> Orchestrator:
    ports = Ports(store, backend, _now, DirectoryFiles.open(settings.home / FILES), store.tenancy(), sources)
    bindings = ServiceBindings(store.bindings(_secret_key(settings)), _now, settings.egress_private)
    retention = timedelta(seconds=settings.file_retention)
    return Orchestrator(ports, bindings, Bounds(max_concurrency=settings.max_concurrency, file_retention=retention))


async def _tick(platform: Platform, identity: Identity, store: SqliteStore) -> None:
    while True:
        try:
            await identity.tick()
            await platform.refusals.tell(store.note, _now())
            await platform.orchestrator.tick()
        except OSError as error:
            _log.error("files cannot be removed: %s", error)
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
