"""The composition root: settings in, a running System out. The one place where concrete parts are named."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import BinaryIO, Final

from enclave.backends.base import Backend, Check
from enclave.backends.local import build, template
from enclave.backends.local.template import Template
from enclave.config import Settings
from enclave.contracts.errors import EnclaveError, InvalidRequest
from enclave.contracts.identity import Credential
from enclave.contracts.sessions import Health
from enclave.core.proof import Finding
from enclave.identity.base import Accounts
from enclave.identity.bootstrap import bootstrap
from enclave.identity.home import private_home, secret_key_of, signing_key_of, write_private
from enclave.identity.service import Identity
from enclave.orchestrator.orchestrator import Bounds, Orchestrator, Ports, ServiceBindings
from enclave.server.app import Application
from enclave.server.routes import Platform
from enclave.source.base import SourceFetcher
from enclave.source.git import Git, GitFetcher
from enclave.store.base import Journals
from enclave.store.checkpoint import Checkpoints
from enclave.store.examination import export, verify
from enclave.store.files import DirectoryFiles
from enclave.store.journal import DirectoryJournals
from enclave.store.signature import Signer
from enclave.store.sqlite import SqliteStore

BACKENDS: Final = "enclave.backends"
"""The entry point group in which backends announce themselves."""

DATABASE: Final = "enclave.db"
FILES: Final = "files"
JOURNALS: Final = "journals"
PUBLIC_KEY: Final = "audit.pub"

_TICK_SECONDS: Final = 60.0

Audited = Iterator[Finding]
"""What is found of each org."""

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
        checkpoints = _checkpoints(settings, store)
        stack.push_async_callback(_attempt, checkpoints.tick)
        identity = Identity.open(settings.home, store.note, now=_now, jwt_secret=settings.jwt_secret)
        stack.callback(identity.close)
        sources = GitFetcher.open(settings.source_directory, settings.egress_private)
        journals = DirectoryJournals.open(settings.home / JOURNALS)
        stack.push_async_callback(journals.close)
        backend = _backend(settings)
        stack.push_async_callback(backend.close)
        await backend.start()
        orchestrator = _orchestrator(settings, store, backend, (journals, sources))
        stack.push_async_callback(_wind_down, orchestrator, backend)
        await orchestrator.recover()
        credential = bootstrap(settings.home, base_url(settings), identity.authority)
        ticking = [
            asyncio.create_task(_repeat(_TICK_SECONDS, identity.tick, orchestrator.tick)),
            asyncio.create_task(_repeat(settings.checkpoint_seconds, checkpoints.tick)),
        ]
        for task in ticking:
            stack.callback(task.cancel)
        accounts = Accounts(identity.keys, identity.members, identity.sign_ins)
        app = Application(Platform(orchestrator, identity.authority, accounts, lambda: _health(backend)))
        yield System(settings, app, orchestrator, credential)


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


def verify_audit(settings: Settings, file: BinaryIO | None, checkpoints: Path | None, key: str | None) -> Audited:
    """Examine an export, or without one the database in the home, in the light of checkpoints and a public key: of the
    home if none are given. Raises NotFound, InvalidRequest and Unavailable, some of it while it goes on."""
    held = settings.home / PUBLIC_KEY
    if file is None:
        checkpoints = checkpoints or settings.checkpoint_file
        key = key or (held.read_text().strip() if held.exists() else None)
    return verify(None if file else settings.home / DATABASE, file, checkpoints, key)


def export_audit(settings: Settings, org_id: str | None) -> Iterator[bytes]:
    """The database in the home, of one org or of all, as lines of an export. Raises as `verify_audit` does."""
    return export(settings.home / DATABASE, org_id)


def base_url(settings: Settings) -> str:
    """Where a client on this machine reaches the server."""
    host = _EVERYWHERE.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _orchestrator(
    settings: Settings, store: SqliteStore, backend: Backend, kept: tuple[Journals, SourceFetcher | None]
) -> Orchestrator:
    journals, sources = kept
    files = DirectoryFiles.open(settings.home / FILES)
    ports = Ports(store, backend, _now, files, journals, sources)
    bindings = ServiceBindings(store.bindings(_secret_key(settings)), _now, settings.egress_private)
    retention = timedelta(seconds=settings.file_retention)
    return Orchestrator(ports, bindings, Bounds(max_concurrency=settings.max_concurrency, file_retention=retention))


async def _wind_down(orchestrator: Orchestrator, backend: Backend) -> None:
    await orchestrator.close()
    await backend.close()
    # What did not let itself be stopped has lost its sandbox now, and is recorded while there is a store.
    await orchestrator.close()


Work = Callable[[], Awaitable[None]]


async def _repeat(seconds: float, *works: Work) -> None:
    while True:
        for work in works:
            await _attempt(work)
        await asyncio.sleep(seconds)


async def _attempt(work: Work) -> None:
    # Whatever keeps one of them from its work, the others and the next time are not to suffer from it.
    try:
        await work()
    except OSError as error:
        _log.error("files cannot be read or removed: %s", error)
    except EnclaveError as error:
        _log.error("%s", error.detail)


def _checkpoints(settings: Settings, store: SqliteStore) -> Checkpoints:
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
