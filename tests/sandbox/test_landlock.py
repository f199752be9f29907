"""The second wall around files: what each ABI can hold, and that the kernel holds it without any mount's part."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from enclave.sandbox import landlock, linux

needs_landlock = pytest.mark.skipif(landlock.domain() is None, reason="this kernel has no Landlock, or only its first")

# Beneath a domain of its own: what is tried, and the error it gets.
TRIED = """
import errno, json, os, socket, sys
from enclave.sandbox import landlock, linux
parent, own, beside = os.getppid(), sys.argv[1], sys.argv[2]
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
landlock.enter(landlock.domain(), own=(own,))
def said(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
def connect(name):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(name)
mine = socket.socket(socket.AF_UNIX)
mine.bind(b"\\0enclave-landlock-%d" % os.getpid())
mine.listen()
print(json.dumps({
    "make_own": said(lambda: open(f"{own}/file", "w").write("x")),
    "rename_own": said(lambda: (os.mkdir(f"{own}/dir"), os.rename(f"{own}/file", f"{own}/dir/file"))),
    "make_beside": said(lambda: open(f"{beside}/new", "w")),
    "write_beside": said(lambda: open(f"{beside}/file", "r+")),
    "truncate_beside": said(lambda: os.truncate(f"{beside}/file", 0)),
    "read_beside": said(lambda: open(f"{beside}/file").read()),
    "unlink_beside": said(lambda: os.unlink(f"{beside}/file")),
    "device": said(lambda: os.mknod(f"{own}/device", 0o20666, 0)),
    "null": said(lambda: open("/dev/null", "w").write("x")),
    "own_name": said(lambda: open("/proc/self/comm", "w").write("x")),
    "own_executable": said(lambda: open("/proc/self/exe", "rb").read(4)),
    "signal_self": said(lambda: os.kill(os.getpid(), 0)),
    "signal_out": said(lambda: os.kill(parent, 0)),
    "abstract_own": said(lambda: connect(mine.getsockname())),
    "abstract_out": said(lambda: connect(sys.argv[3].encode().replace(b"@", b"\\0"))),
}))
"""

REFUSED = {
    "make_beside": "EACCES",
    "write_beside": "EACCES",
    "truncate_beside": "EACCES",
    "unlink_beside": "EACCES",
    "device": "EACCES",
    "signal_out": "EPERM",
    "abstract_out": "EPERM",
}
SINCE = {"truncate_beside": 3, "signal_out": 6, "abstract_out": 6}


@pytest.mark.parametrize(
    ("abi", "rights", "scopes"), [(2, 14, 0), (3, 15, 0), (4, 15, 0), (5, 16, 0), (6, 16, 3), (99, 16, 3)]
)
def test_each_abi_holds_all_it_knows(abi: int, rights: int, scopes: int) -> None:
    planned = landlock.plan(abi)

    assert (planned.files, planned.scopes) == ((1 << rights) - 1, scopes)
    assert all(allowed & ~planned.files == 0 for allowed in [planned.own, *planned.rules.values()])


def test_nothing_may_be_made_but_in_a_sandboxs_own_places_and_a_device_nowhere() -> None:
    planned = landlock.plan(99)
    use = landlock.WRITE_FILE | landlock.TRUNCATE | landlock.IOCTL_DEV
    look = landlock.EXECUTE | landlock.READ_FILE | landlock.READ_DIR

    assert {place: rights & ~(use | look) for place, rights in planned.rules.items()} == dict.fromkeys(planned.rules, 0)
    assert planned.rules["/"] == look
    assert planned.files & ~planned.own == landlock.MAKE_CHAR | landlock.MAKE_BLOCK


def test_a_kernel_without_it_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*call: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(linux, "syscall", absent)

    assert landlock.domain.__wrapped__() is None
    landlock.enter(None, own=("/nowhere",))


@needs_landlock
def test_the_kernel_holds_a_domain(tmp_path: Path) -> None:
    own, beside = tmp_path / "own", tmp_path / "beside"
    own.mkdir()
    beside.mkdir()
    (beside / "file").write_text("theirs")
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(f"\0enclave-landlock-{tmp_path.name}")
        outside.listen()
        name = f"@enclave-landlock-{tmp_path.name}"
        command = [sys.executable, "-c", TRIED, str(own), str(beside), name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)

    said = json.loads(done.stdout)

    refused = {name: error for name, error in REFUSED.items() if SINCE.get(name, 2) <= landlock.abi()}
    assert {name: error for name, error in said.items() if error} == refused
