"""Templates of Node: what npm installs without running any of it, its modules loaded once in a sandbox.

Nothing of a package runs outside a sandbox: npm is told to leave its scripts, and the proof is a session.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from enclave.backends.base import Exit, LaunchSpec, Output, SandboxLost
from enclave.backends.local import machine, plan, step
from enclave.backends.local.broker import Broker
from enclave.backends.local.station import Station
from enclave.backends.local.template import NPM, Kept, Template, packages_in
from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.policy import EgressPolicy, SessionLimits
from enclave.core.egress import Floor
from enclave.sandbox.slot import UID_RANGES

_INSTALL: Final = (
    "install",
    "--ignore-scripts",
    "--install-links",  # what is a directory is copied
    "--location=project",
    "--no-audit",
    "--no-fund",
    "--no-package-lock",
    "--no-save",
    "--no-update-notifier",
    "--omit=dev",
    "--",
)
_LOCAL: Final = re.compile(r"[.~/].*|.*\.(tgz|tar\.gz|tar)")
"""What npm takes for a path (npm-package-arg)."""
_RECORD: Final = "node_modules/.package-lock.json"
"""Where npm says what it installed, and where from."""
_BELOW: Final = "node_modules/"
_FOR_MACHINES: Final = frozenset({"code", "dest", "errno", "path", "syscall"})

_PROOF: Final = """\
require(%s).prove(%s)
  .then(() => enclave.result(null), error => enclave.result(String(error.message)))
  .finally(() => process.exit());
"""
_MOST_SAID: Final = 500


def make(asked: Template, place: Path) -> tuple[str, ...]:
    """Install and prove in a directory what is asked for; answers with what that came to.

    Raises InvalidRequest, and Unavailable where no sandbox can be made.
    """
    (place / NPM / _BELOW).mkdir(parents=True)
    for directory in (place / NPM, place / NPM / _BELOW):
        directory.chmod(0o755)
    resolved = _install(asked, place / NPM) if asked.packages else ()
    kept = Kept(asked, packages_in(place, asked.language), edition=0)
    ended, printed = asyncio.run(_preload_in_a_session(kept))
    _judge(ended, printed=printed)
    return resolved


def _install(asked: Template, where: Path) -> tuple[str, ...]:
    packages = [
        os.path.abspath(os.path.expanduser(each)) if _LOCAL.fullmatch(each) else each for each in asked.packages
    ]
    command = [asked.interpreter, _npm(asked.interpreter), "--prefix", str(where), *_INSTALL, *packages]
    step.run(command, "npm", live=True, headline=_headline)
    record = where / _RECORD
    installed = json.loads(record.read_text())["packages"]
    record.unlink()
    return tuple(sorted({f"{path.rpartition(_BELOW)[2]}@{about.get('version')}" for path, about in installed.items()}))


def _npm(node: str) -> str:
    """npm's own program, of that Node if it has one beside it."""
    path = os.pathsep.join((os.path.dirname(node), os.environ.get("PATH", "")))
    found = shutil.which("npm", path=path)
    if found is None:
        raise Unavailable("npm is not installed: apt-get install npm")
    return os.path.realpath(found)


def _headline(lines: Sequence[str]) -> str:
    """What npm says is wrong: behind lines for machines, and before advice and the place of a log."""
    said = [re.sub(r"^npm (error|ERR!) *", "", line) for line in lines if line.startswith(("npm error", "npm ERR!"))]
    return next((line for line in said if line and line.split()[0] not in _FOR_MACHINES), lines[-1])


async def _preload_in_a_session(kept: Kept) -> tuple[Exit, bool]:
    """Load the modules in a session of default limits; answers with how it ended, and whether it printed."""
    # The last range of user ids: a server that runs meanwhile gives them out from the first.
    share = plan.Share(pool=0, uids=UID_RANGES - 1)
    bare = replace(kept, template=replace(kept.template, preload=()))
    broker = Broker(Floor())
    station = Station(plan.of_template(bare, share), broker, lasts=False)
    program = _PROOF % (json.dumps(machine.NODE_AHEAD), json.dumps(kept.template.preload))
    limits = SessionLimits(wall_clock_seconds=step.PROOF_SECONDS)
    spec = LaunchSpec(session_id="proof", language=kept.template.language, limits=limits, egress=EgressPolicy())
    try:
        await asyncio.gather(broker.open(), station.open())
        workload = await station.launch(spec).run(program)
        printed = [told async for told in workload.output() if isinstance(told, Output)]
        return await workload.wait(), bool(printed)
    except SandboxLost as error:
        raise Unavailable(str(error)) from error
    finally:
        await station.close()
        await broker.close()


def _judge(ended: Exit, *, printed: bool) -> None:
    if ended.kill_reason is not None:
        raise InvalidRequest(f"preload: {ended.kill_reason}, with the default limits of a session")
    if ended.value is None:
        raise InvalidRequest(f"preload: it ended with code {ended.code}")
    if ended.value != b"null":
        raise InvalidRequest(f"preload: {_in_one_line(ended.value)}")
    if printed:
        raise InvalidRequest("preload: it prints past console and process.stdout, which every session would show")


def _in_one_line(value: bytes) -> str:
    try:
        return " ".join(str(json.loads(value)).split())[:_MOST_SAID]
    except (ValueError, RecursionError):
        return "it speaks for the proof"
