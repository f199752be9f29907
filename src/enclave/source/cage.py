"""Where git runs: a process of its own, behind walls, that leaves a tree in a directory and says what it is.

Git reads what a stranger's server sends. It does so in namespaces of its own, in the root that sandboxes have, with one
directory it may write to, no privilege, bounds on what it takes, and the network; as root under a user id that no other
clone has. It is told everything by standard input, answers with one line of JSON, and ends when standard input closes,
so that it never outlives the control plane. The standard library and `enclave.sandbox` are all it needs.
"""

import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Final, NoReturn

from enclave.sandbox import host, linux, root
from enclave.source import checkout
from enclave.source.checkout import MOST_BYTES, Refused

_WORK: Final = "/work"
_REPOSITORY: Final = f"{_WORK}/git"
TREE: Final = "tree"
"""Where in its directory a clone leaves the tree."""

_MOST_SAID: Final = 64 * 1024
_RLIMITS: Final = (
    (resource.RLIMIT_FSIZE, MOST_BYTES),
    (resource.RLIMIT_AS, 2 * 1024**3),
    (resource.RLIMIT_NOFILE, 256),
    (resource.RLIMIT_CORE, 0),
)

TOO_SLOW: Final = "it took too long"
_TOO_LARGE: Final = f"it is larger than {MOST_BYTES >> 20} MiB"

SAID: Final[Sequence[tuple[str, str]]] = (
    (r"couldn't find remote ref HEAD", "it is empty, or has no default branch"),
    (r"couldn't find remote ref|not our ref|unadvertised object|[Ii]nvalid refspec", "there is no such ref in it"),
    (
        r"could not read Username|Authentication failed|error: 40[13]",
        "the server refuses the credentials, or asks for some",
    ),
    (r"not found|error: 404", "there is no repository there, or none that is shown with these credentials"),
    (r"error: 30[0-9]|redirect", "the server points elsewhere, which is not followed"),
    (r"certificate|SSL", "the server's certificate is not trusted"),
    (r"too slow|timed out|Timeout", "the server is too slow"),
    (r"Failed to connect|Could not resolve|Couldn't connect|Connection", "the server cannot be reached"),
    (r"died of signal 25|File too large|[Oo]ut of memory|malloc", _TOO_LARGE),
    (r"dumb http", "the server does not speak git's smart protocol"),
    (r"fsck|malformed|corrupt|bad object", "git finds an object of it malformed"),
    (r"invalid index-pack output", f"{_TOO_LARGE}, or malformed"),
)
"""What git says and what is told of it. Only words of ours get out: git repeats what servers say, secrets among it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to fetch, and where to. `place` is a directory that is empty, `environment` all that git gets of one.

    `prefix` is where git is installed, `certificates` the text of the authorities to trust, `uid` the host user id to
    run under, None for the own one. The environment may hold a secret.
    """

    place: str
    git: str
    prefix: str
    certificates: str
    url: str
    ref: str
    environment: Mapping[str, str]
    uid: int | None
    seconds: float


def main() -> None:
    """Fetch what standard input orders."""
    order = Order(**json.loads(sys.stdin.buffer.readline()))
    linux.last_capability()
    if os.geteuid() != 0:
        host.become_root_of_own()
    linux.unshare(linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWIPC)
    watched, held = os.pipe2(os.O_CLOEXEC)
    inside = os.fork()
    if inside == 0:
        os.close(held)
        _be_inside(order, watched)
    if not _await(inside, order.seconds):
        _say({"failed": TOO_SLOW})


def _await(inside: int, seconds: float) -> bool:
    """Wait for the end, or bring it about: after so many seconds, and when nobody waits for us. False if in vain."""
    poll = select.poll()
    poll.register(end := os.pidfd_open(inside), select.POLLIN)
    poll.register(0, select.POLLIN)
    happened = poll.poll(seconds * 1000)
    os.kill(inside, signal.SIGKILL)
    os.waitpid(inside, 0)
    os.close(end)
    return bool(happened)


def _be_inside(order: Order, watched: int) -> NoReturn:
    """Be the first process of the namespace: when it ends, the kernel ends git and whatever git started."""
    try:
        _enter(order)
        _stop_if_orphaned(watched)
        _say({"fetched": _fetch(order)})
    except Refused as refused:
        _say({"failed": str(refused)})
    except OSError as error:
        _say({"failed": f"the clone could not be made: {error.strerror}"})
    finally:
        os._exit(0)


def _enter(order: Order) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    place = linux.open_tree(order.place)
    linux.mount_setattr(place, linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC)
    files = {"/etc/ssl/certs/ca-certificates.crt": order.certificates.encode()}
    root.enter(root.plan([order.prefix], files), keep_proc=False)
    linux.move_mount(place, _WORK)
    os.close(place)
    os.chdir(_WORK)
    _drop_privilege(order.uid)
    for which, most in _RLIMITS:
        resource.setrlimit(which, (most, most))


def _drop_privilege(uid: int | None) -> None:
    if uid is None:
        linux.drop_capabilities()
    else:
        os.chown(_WORK, uid, uid)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    # What runs beside has the same user id, and must not reach in here (ptrace(2)).
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    # After the change of ids, which clears it (prctl(2)).
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop_if_orphaned(watched: int) -> None:
    poll = select.poll()
    poll.register(watched, 0)
    if poll.poll(0):
        os._exit(1)


def _fetch(order: Order) -> Mapping[str, object]:
    _git(order, "init", "--quiet", "--bare", "--template=", _REPOSITORY)
    _git(order, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", order.url, order.ref)
    commit = _commit(order)
    with _reading(order, "ls-tree", "-r", "-z", "-l", "--full-tree", commit) as listing:
        entries = checkout.judged(listing)
    wanted = f"{_WORK}/wanted"
    with open(wanted, "wb") as file:
        file.write(checkout.blobs(entries))
    with open(wanted, "rb") as asked, _reading(order, "cat-file", "--batch", asked=asked) as contents:
        written = checkout.write(entries, contents, f"{_WORK}/{TREE}".encode())
    os.unlink(wanted)
    shutil.rmtree(_REPOSITORY)
    return {"commit": commit, **asdict(written)}


def _commit(order: Order) -> str:
    with _reading(order, "rev-parse", "--verify", "--quiet", "--end-of-options", "FETCH_HEAD^{commit}") as answer:
        commit = answer.read(_MOST_SAID).decode("ascii", "replace").strip()
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise Refused("the ref is not of a commit")
    return commit


def _git(order: Order, *arguments: str) -> None:
    command = [order.git, f"--git-dir={_REPOSITORY}", *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=order.environment, **streams) as process:  # type: ignore[call-overload]  # noqa: S603
        said = process.stderr.read(_MOST_SAID)
        # One that has more to say is not listened to any further.
        if len(said) == _MOST_SAID:
            process.kill()
    if process.returncode != 0:
        raise Refused(told(said.decode(errors="replace")))


@contextmanager
def _reading(order: Order, *arguments: str, asked: IO[bytes] | None = None) -> Iterator[IO[bytes]]:
    command = [order.git, f"--git-dir={_REPOSITORY}", *arguments]
    streams = {"stdin": asked or subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=order.environment, **streams) as process:  # type: ignore[call-overload]  # noqa: S603
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise


def told(said: str) -> str:
    """What git's standard error comes to, in words of ours; what the server said there is not looked at."""
    own = "\n".join(line for line in said.splitlines() if not line.startswith("remote:"))
    return next((words for pattern, words in SAID if re.search(pattern, own)), "git could not fetch it")


def _say(answer: Mapping[str, object]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")
