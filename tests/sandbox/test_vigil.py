"""Init's wait, in a process of its own: what it tells, and what is left of its memory."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enclave.sandbox import linux, vigil

pytestmark = pytest.mark.skipif(linux.MACHINE != "x86_64", reason="init waits in Python on other machines")


@pytest.mark.skipif(shutil.which("as") is None, reason="needs the GNU assembler")
def test_the_code_is_what_its_listing_says(tmp_path: Path) -> None:
    text, linked = ".intel_syntax noprefix\n" + "\n".join(text for _, text in vigil.LISTING) + "\n", tmp_path / "linked"

    subprocess.run(["as", "-o", str(tmp_path / "object"), "-"], input=text, text=True, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(tmp_path / "object"), str(linked)], check=True)

    assert linked.read_bytes() == b"".join(bytes.fromhex(octets) for octets, _ in vigil.LISTING)


@contextmanager
def init(ends: signal.Signals | int) -> Iterator[tuple[int, int]]:
    """A process that keeps vigil over a child which ends when it is told to; the process, and where it tells."""
    told, tell = os.pipe()
    go, start = os.pipe()
    pid = os.fork()
    if pid == 0:
        guest = os.fork()
        if guest == 0:
            os.close(start)
            os.read(go, 1)
            os.kill(os.getpid(), ends) if isinstance(ends, signal.Signals) else os._exit(ends)
        os.close(start)
        vigil.keep(guest, tell)
        os._exit(99)
    os.close(go)
    os.close(tell)
    try:
        yield pid, told
    finally:
        os.close(start)
        status = os.read(told, 16)
        os.close(told)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert status == b"X" + (ends if isinstance(ends, signal.Signals) else ends << 8).to_bytes(4, "little")


@pytest.mark.parametrize("ends", [0, 3, signal.SIGKILL])
def test_it_tells_how_the_guest_ended(ends: signal.Signals | int) -> None:
    with init(ends):
        pass


def test_nothing_is_left_in_its_memory_but_its_code_and_its_message() -> None:
    with init(0) as (pid, _):
        while len(maps := own_mappings(pid)) > 2:
            os.sched_yield()

    assert maps == ["r-xp", "rw-p"]


def own_mappings(pid: int) -> list[str]:
    """The access of each mapping but the page that the kernel shows in all processes (vsyscall)."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line.split()[1] for line in lines if not line.startswith("ffffffff")]


def test_where_it_cannot_be_init_goes_on_waiting_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "leave_rseq", lambda: False)

    vigil.keep(1, -1)
