"""The walk over a hostile tree, on a file system of our own."""

import os
import socket
from pathlib import Path

import pytest

from enclave.sandbox import outbox
from enclave.sandbox.outbox import Bounds, Harvest, collect, is_left

BOUNDS = Bounds(files=4, file_bytes=100, total_bytes=250, path_bytes=40, entries=12, depth=3)


def harvest(work: Path, into: Path) -> Harvest:
    into.mkdir()
    source, target = os.open(work, os.O_PATH), os.open(into, os.O_RDONLY)
    try:
        return collect(source, target, BOUNDS)
    finally:
        os.close(source)
        os.close(target)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = tmp_path / "work" / "out"
    made.mkdir(parents=True)
    return made


def taken(out: Path) -> tuple[list[str], dict[str, int]]:
    got = harvest(out.parent, out.parent.parent / "into")
    return [found.path for found in got.found], dict(got.omitted)


def test_files_are_copied_in_the_order_of_their_names(out: Path) -> None:
    (out / "b").write_bytes(b"two")
    (out / "a").mkdir()
    (out / "a" / "c").write_bytes(b"one")

    assert taken(out) == (["a/c", "b"], {})
    into = out.parent.parent / "into"
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {"0": b"one", "1": b"two"}


def test_what_is_no_file_is_left_where_it_is(out: Path) -> None:
    (out / "link").symlink_to("/etc/passwd")
    (out / "up").symlink_to("..")
    os.mkfifo(out / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(out / "socket"))

    assert taken(out) == ([], {"not_a_file": 4})


@pytest.mark.root
def test_a_device_is_not_even_opened(out: Path) -> None:
    os.mknod(out / "tty", 0o20666, os.makedev(5, 0))

    assert taken(out) == ([], {"not_a_file": 1})


def test_a_mount_is_not_crossed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "OUT", "proc")

    got = harvest(Path("/"), tmp_path / "into")

    assert (got.found, dict(got.omitted)) == ([], {"unreadable": 1})


@pytest.mark.parametrize("kind", ["link", "file", "fifo"])
def test_an_out_that_is_no_directory_is_told(tmp_path: Path, kind: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    match kind:
        case "link":
            (work / "out").symlink_to("/etc")
        case "file":
            (work / "out").write_text("x")
        case _:
            os.mkfifo(work / "out")
    got = harvest(work, tmp_path / "into")

    assert (got.found, dict(got.omitted)) == ([], {"not_a_file": 1})


def test_names_that_would_harm_whoever_reads_them_are_not_kept(out: Path) -> None:
    for name in (b"new\nline", b"\xff", b"\x1b[31m", "\x85".encode(), b"good", "gut\u202e".encode()):
        Path(os.fsdecode(bytes(out) + b"/" + name)).write_bytes(b"x")

    assert taken(out) == (["good", "gut\u202e"], {"bad_name": 4})


def test_every_bound_has_its_reason(out: Path) -> None:
    for name, size in {"a": 100, "b": 101, "c": 100, "d": 60, "e": 50, "f": 0, "g": 0}.items():
        (out / name).write_bytes(bytes(size))
    (out / "deep" / "er" / "and" / "deeper").mkdir(parents=True)
    (out / ("n" * 41)).write_bytes(b"")

    assert taken(out) == (["a", "c", "e", "f"], {"too_large": 1, "too_much": 1, "too_many": 1, "too_deep": 2})


def test_a_sparse_file_counts_as_what_it_says(out: Path) -> None:
    with (out / "sparse").open("wb") as file:
        file.truncate(1 << 40)

    assert taken(out) == ([], {"too_large": 1})


def test_only_so_many_names_are_looked_at(out: Path) -> None:
    for number in range(500):
        (out / f"{number}.link").symlink_to("x")

    assert taken(out) == ([], {"not_a_file": 12, "too_many": 1})


def test_the_mode_and_the_owner_are_not_carried_over(out: Path) -> None:
    (out / "root").write_bytes(b"x")
    (out / "root").chmod(0o6777)
    harvest(out.parent, out.parent.parent / "into")

    about = (out.parent.parent / "into" / "0").stat()
    assert (oct(about.st_mode), about.st_uid) == ("0o100600", os.geteuid())


def test_nothing_left_is_one_look(tmp_path: Path) -> None:
    work = os.open(tmp_path, os.O_PATH)
    try:
        assert not is_left(work)
        (tmp_path / "out").symlink_to("nowhere")
        assert is_left(work)
    finally:
        os.close(work)
