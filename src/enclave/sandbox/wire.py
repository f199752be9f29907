"""The messages between the control plane and its launcher: JSON objects on a SEQPACKET socket, descriptors beside them.

To the launcher: `Configure` once, then `Run` (with the payload as a memory file) and `Kill`. From it: `up` or `down`
once; for each session `running` (with stdout, stderr and result, and whether a sandbox was ready and how many are left)
or `refused`, then `exit`, then `gone`.
"""

import array
import dataclasses
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MAX_MESSAGE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Configure:
    """What a launcher has to know before it leaves the host's root.

    `prefixes` are where interpreters are installed, `commands` the guests that are not forked from the launcher,
    `files` and `links` what their sandboxes find beside the runtime, `warm` the least and the most sandboxes of each
    language to keep ready, `uids` which range of host user ids they take, another one for each launcher that lives.
    `packages` is the directory of a template's, if it is for one, and `preload` what the launcher itself imports of
    them; it has no way to them if that is None. `sources` is the directory that the sources of sessions are in.
    """

    instance: str
    prefixes: Sequence[str]
    commands: Mapping[str, Sequence[str]]
    files: Mapping[str, str]
    warm: Mapping[str, Sequence[int]]
    memory_bytes: int
    tasks: int
    cpus: float
    disk_bytes: int
    uids: int = 0
    packages: str | None = None
    preload: Sequence[str] | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    sources: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Start a session. Times in seconds; `tasks` counts the session's own processes and threads.

    With a `door` a listening socket in its network goes with its openings, for connections that are carried.

    `id` is a number that means nothing outside: the launcher knows no more of a session than it has to. So is the name
    in `source`, the place of the session's source below `sources`.
    """

    id: int
    language: str
    memory_bytes: int
    tasks: int
    cpus: float
    disk_bytes: int
    wall_seconds: float
    cpu_seconds: float
    door: bool = False
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop a session, whatever it does; with a `reason` it is told as killed for it."""

    id: int
    reason: str | None = None


def encode(message: Configure | Run | Kill) -> bytes:
    """A message as bytes."""
    fields = {each.name: getattr(message, each.name) for each in dataclasses.fields(message)}
    return json.dumps({"op": type(message).__name__, **fields}).encode()


def decode(data: bytes) -> Configure | Run | Kill:
    """The message in the bytes. Raises KeyError or TypeError for anything else."""
    fields = json.loads(data)
    message: Configure | Run | Kill = _KINDS[fields.pop("op")](**fields)
    return message


_KINDS: Final[Mapping[str, Any]] = {kind.__name__: kind for kind in (Configure, Run, Kill)}


def send_report(sock: socket.socket, report: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Tell the control plane. Raises OSError when it is gone."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(report).encode()], ancillary)


def read_report(data: bytes) -> Mapping[str, Any]:
    """The fields of a report."""
    report: Mapping[str, Any] = json.loads(data)
    return report


def receive(sock: socket.socket, most_fds: int) -> tuple[bytes, list[int]]:
    """One message and the descriptors that came with it; empty bytes when the other side is gone."""
    data, fds, _, _ = socket.recv_fds(sock, MAX_MESSAGE, most_fds, socket.MSG_CMSG_CLOEXEC)
    for fd in fds:
        os.set_inheritable(fd, False)
    return data, fds
