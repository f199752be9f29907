"""Sources fetched by the system's git, one process behind walls for each (`cage`).

    <where>/NAME/tree    what a session sees; NAME says nothing, for it shows in the session's mount table

A directory lives as long as its session; what an earlier control plane left is removed when the next one opens it.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import enclave
from enclave.contracts.sessions import GitSource
from enclave.core.address import Address, Network
from enclave.core.grant import Grant
from enclave.core.remote import Remote
from enclave.sandbox import linux, slot
from enclave.source import address, credential
from enclave.source.base import FetchFailed, Tree
from enclave.source.cage import TREE, Order

SECONDS: Final = 60.0
"""How long one clone may take."""

_AT_ONCE: Final = 16
_OLDEST: Final = (2, 37)  # http.curloptResolve
_BOOT: Final = "import sys;sys.path.insert(0,sys.argv[1]);from enclave.source.cage import main;sys.path.pop(0);main()"
_FIRST_UID: Final = slot.UID_BASE + slot.UID_RANGES * slot.UID_RANGE
"""Above the ids of all sandboxes: one range more, for clones."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Git:
    """The system's git. `prefix` is the directory it is installed under."""

    path: str
    prefix: str
    version: str

    @classmethod
    def find(cls) -> Self | None:
        """The one there is, if it is recent enough."""
        found = shutil.which("git", path="/usr/local/bin:/usr/bin:/bin")
        if found is None:
            return None
        path = os.path.realpath(found)
        asked = subprocess.run([path, "version"], capture_output=True, text=True, env={}, check=False)  # noqa: S603
        version = asked.stdout.removeprefix("git version").strip()
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        return cls(path, str(Path(path).parent.parent), version) if numbers >= _OLDEST else None


class GitFetcher:
    """The clones of one control plane, kept in `where`; `leave` is what the operator allows beside the internet."""

    def __init__(self, where: Path, git: Git, leave: Sequence[Network]) -> None:
        self._where = where
        self._git = git
        self._leave = tuple(leave)
        self._certificates = _certificates()
        self._privileged = linux.is_real_root()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._uids = itertools.count()

    @classmethod
    def open(cls, where: Path, leave: Sequence[Network]) -> Self | None:
        """The fetcher of a directory, emptied of what was left there; None where there is no git."""
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in where.iterdir():
            _remove_left(left)
        git = Git.find()
        return None if git is None else cls(where, git, leave)

    async def fetch(self, source: GitSource, grant: Grant | None) -> Tree:
        """The tree of a source. Raises FetchFailed; then, and when cancelled, nothing of it is left behind."""
        remote = Remote.parse(source.url)
        secret = None if grant is None else credential.header(grant, remote)
        async with self._turns:
            started = time.monotonic()
            place = self._where / os.urandom(8).hex()
            try:
                place.mkdir(mode=0o700)
                pinned = await address.allowed(remote, self._leave)
                order = self._order(place, remote, source.ref, environment(self._git, remote, pinned, secret))
                fetched = _read(await _answered(order))
                _check_directory(place / TREE)
            except BaseException as error:
                await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
                if isinstance(error, OSError):
                    raise FetchFailed(f"the clone could not be made: {error.strerror or error}") from None
                raise
        return Tree(path=place / TREE, seconds=time.monotonic() - started, **fetched)

    async def release(self, tree: Tree) -> None:
        """Remove a tree; it may be done twice. No sandbox may have it any more."""
        if tree.path.parent.exists():
            await asyncio.to_thread(shutil.rmtree, tree.path.parent)

    def _order(self, place: Path, remote: Remote, ref: str | None, variables: Mapping[str, str]) -> Order:
        return Order(
            place=str(place),
            git=self._git.path,
            prefix=self._git.prefix,
            certificates=self._certificates,
            url=remote.url,
            ref=ref or "HEAD",
            environment=variables,
            uid=_FIRST_UID + next(self._uids) % slot.UID_RANGE if self._privileged else None,
            seconds=SECONDS,
        )


def _remove_left(place: Path) -> None:
    """Remove what a control plane left that was killed; its clone, which is being ended too, may write for a moment."""
    for pause in (0.0, 0.01, 0.1, 0.5, 1.0):
        time.sleep(pause)
        shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            return
    log.error("%s is left of an earlier clone, and cannot be removed", place)


def environment(git: Git, remote: Remote, pinned: Sequence[Address], secret: str | None) -> dict[str, str]:
    """All that git gets of an environment; settings come by it too, because arguments are for everybody to see.

    Nothing is read that a system or a user configured, and nothing but the one address is spoken to.
    """
    settings = {**_SETTINGS, "http.curloptResolve": _pin(remote, pinned)}
    if secret is not None:
        settings[f"http.{remote.url}.extraHeader"] = secret
    pairs = enumerate(settings.items())
    numbered = [(f"GIT_CONFIG_{part}_{n}", text) for n, pair in pairs for part, text in zip(_PARTS, pair, strict=True)]
    path = f"{os.path.dirname(git.path)}:/usr/bin:/bin"
    return {
        **_ENVIRONMENT,
        "PATH": path,
        "GIT_ALLOW_PROTOCOL": remote.scheme,
        "GIT_CONFIG_COUNT": str(len(settings)),
        **dict(numbered),
    }


_PARTS: Final = ("KEY", "VALUE")

_ENVIRONMENT: Final = {
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_SSL_CAINFO": "/etc/ssl/certs/ca-certificates.crt",
}

_SETTINGS: Final = {
    "core.hooksPath": "/dev/null",
    "core.askPass": "",
    "credential.helper": "",
    "fetch.unpackLimit": "1",
    "gc.auto": "0",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "15",
    "http.proxy": "",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "protocol.version": "2",
    "transfer.fsckObjects": "true",
    "transfer.bundleURI": "false",
}
"""See git-config(1). One pack, whatever its size, so that the bound on a file bounds the whole."""


def _pin(remote: Remote, pinned: Sequence[Address]) -> str:
    """Have the host mean the addresses that were checked, whatever its name server says next (CURLOPT_RESOLVE(3))."""
    addresses = ",".join(f"[{each}]" if each.version == 6 else str(each) for each in pinned)
    host = f"[{remote.host}]" if ":" in remote.host else remote.host
    return f"{host}:{remote.port}:{addresses}"


async def _answered(order: Order) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", _BOOT, str(Path(enclave.__file__).parent.parent)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"LANG": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  they are pipes
    try:
        process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        return await process.stdout.readline()
    finally:
        # Its standard input closes: it ends git, and itself.
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            await asyncio.shield(process.wait())


def _read(answer: bytes) -> dict[str, Any]:
    said: Mapping[str, Any] = json.loads(answer or b"{}")
    if "fetched" not in said:
        raise FetchFailed(said.get("failed", "the clone could not be made"))
    fetched: dict[str, Any] = said["fetched"]
    return fetched


def _check_directory(tree: Path) -> None:
    # Whatever git was made to do: what is shown to a sandbox is this directory, and not what a link points to.
    if tree.is_symlink() or not tree.is_dir():
        raise FetchFailed("the clone could not be made")


def _certificates() -> str:
    where = ssl.get_default_verify_paths().cafile
    return Path(where).read_text() if where is not None else ""
