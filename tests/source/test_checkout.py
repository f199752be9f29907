"""Trees as git tells of them, and what is made of them."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.source import checkout
from enclave.source.checkout import Entry, Refused, Written, judged, write

OID = "0" * 40


def listing(*entries: tuple[str, str, bytes]) -> io.BytesIO:
    return io.BytesIO(
        b"".join(f"{mode} blob {OID} {size:>7}\t".encode() + path + b"\0" for mode, size, path in entries)
    )


@pytest.mark.parametrize(
    "path",
    [
        b"../x",
        b"a/../../x",
        b"/x",
        b"a//x",
        b"./x",
        b"",
        b".git/config",
        b"a/.GIT/config",
        b".Git",
        b"git~1/x",
        b"GIT~1",
        b".git./x",
        b".git /x",
        b".git::$INDEX_ALLOCATION/x",
        ".g\u200cit/x".encode(),
        b"a/" * 64 + b"x",
        b"x" * 4000,
        b"x" * 200_000,
    ],
)
def test_a_name_that_no_tree_may_have_is_refused(path: bytes) -> None:
    with pytest.raises(Refused):
        judged(listing(("100644", "1", path)))


@pytest.mark.parametrize(
    "path", [b".gitignore", b".github/x", b"a.git", b"git~10", b"a b", b"\xff\xfe", b"..x", b"-rf"]
)
def test_other_names_are_taken(path: bytes) -> None:
    assert judged(listing(("100644", "1", path))) == [Entry("100644", OID, 1, path)]


@pytest.mark.parametrize("mode", ["104755", "020000", "060000", "010000", "140000", "040000", "777777"])
def test_there_are_files_links_and_submodules_and_nothing_else(mode: str) -> None:
    with pytest.raises(Refused, match="mode"):
        judged(listing((mode, "1", b"x")))


def test_the_bounds_are_found_before_anything_is_written() -> None:
    many = [("100644", "0", b"%d" % number) for number in range(checkout.MOST_FILES)]

    assert len(judged(listing(*many))) == checkout.MOST_FILES
    with pytest.raises(Refused, match="20000 files"):
        judged(listing(*many, ("100644", "0", b"x")))
    with pytest.raises(Refused, match="256 MiB"):
        judged(listing(("100644", str(checkout.MOST_BYTES), b"a"), ("100644", "1", b"b")))
    with pytest.raises(Refused, match="missing"):
        judged(listing(("100644", "BAD", b"a")))


@given(st.binary(max_size=300))
def test_a_listing_that_is_none_is_refused_or_taken_and_never_anything_else(data: bytes) -> None:
    try:
        judged(io.BytesIO(data))
    except Refused:
        return


def blob(entry: Entry, content: bytes) -> bytes:
    return f"{entry.object} blob {len(content)}\n".encode() + content + b"\n"


def written(root: Path, *files: tuple[str, bytes, bytes]) -> Written:
    entries = [Entry(mode, OID, len(content), path) for mode, path, content in files]
    contents = b"".join(blob(entry, content) for entry, (_, _, content) in zip(entries, files, strict=True))
    return write(entries, io.BytesIO(contents), os.fsencode(root))


def test_files_are_read_only_and_keep_of_their_mode_whether_they_can_be_run(tmp_path: Path) -> None:
    tree = tmp_path / "tree"

    assert written(tree, ("100755", b"bin/run", b"#!"), ("100644", b"a", b"text")) == Written(2, 6, 0)

    modes = {str(path.relative_to(tree)): oct(path.stat().st_mode) for path in [tree, *sorted(tree.rglob("*"))]}
    assert modes == {".": "0o40755", "a": "0o100444", "bin": "0o40755", "bin/run": "0o100555"}


def test_links_stay_in_the_tree_or_are_left_out(tmp_path: Path) -> None:
    """`up` leads to the root of the tree, so that `far` leaves it, although by its text it does not."""
    tree = tmp_path / "tree"
    links = {
        b"d/e/up": b"../../",
        b"d/e/far": b"up/../x",
        b"d/e/near": b"../../a",
        b"absolute": b"/etc/passwd",
        b"out": b"../x",
        b"through": b"d/e/up/../../..",
        b"dangling": b"nothing",
        b"loop": b"loop",
        b"self": b".",
        b"beside": b"../tree2/x",
    }

    told = written(tree, ("100644", b"a", b"x"), *(("120000", path, target) for path, target in links.items()))

    left = {os.fsencode(path.relative_to(tree)) for path in tree.rglob("*") if path.is_symlink()}
    assert left == {b"d/e/up", b"d/e/near", b"dangling", b"loop", b"self"}
    assert told == Written(6, 1 + sum(map(len, links.values())), 5)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    with pytest.raises(OSError, match="exists"):
        written(tmp_path / "tree", ("120000", b"a", b"../outside"), ("100644", b"a/x", b"gotcha"))

    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("said", [b"", b"missing\n", f"{OID} blob 2\n".encode(), f"{OID} blob 3\nab".encode()])
def test_an_object_that_is_not_what_the_tree_said_is_refused(tmp_path: Path, said: bytes) -> None:
    with pytest.raises(Refused):
        write([Entry("100644", OID, 3, b"a")], io.BytesIO(said), os.fsencode(tmp_path / "tree"))
