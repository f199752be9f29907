"""Clones from a real server over smart HTTP, by repositories and servers that mean ill."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from enclave.config import Settings
from enclave.contracts.sessions import GitSource
from enclave.core.address import Address
from enclave.core.grant import Grant
from enclave.source import address, cage
from enclave.source import git as module
from enclave.source.base import FetchFailed, Tree
from enclave.source.checkout import MOST_BYTES
from enclave.source.git import Git, GitFetcher
from enclave.system import diagnose
from tests.source.serving import LEAVE, Site, git, refuse, repository, serving

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox]

TOKEN = "hunter2-secret-token"
FILES = {"main.py": "print(1)\n", "pkg/x.py": "V = 2\n"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = tmp_path / "served"
    root.mkdir()
    with serving(Site(root)) as made:
        yield made


@pytest.fixture
async def fetcher(tmp_path: Path) -> GitFetcher:
    made = GitFetcher.open(tmp_path / "sources", LEAVE)
    assert made is not None
    return made


def in_tree(tree: Tree) -> dict[str, bytes]:
    return {str(path.relative_to(tree.path)): path.read_bytes() for path in tree.path.rglob("*") if path.is_file()}


def commit(repository: Path, *entries: str) -> None:
    """Have `main` be a commit of a tree of these lines of `git mktree`."""
    tree = git(repository, "mktree", "--missing", given="".join(f"{entry}\n" for entry in entries).encode())
    git(repository, "update-ref", "refs/heads/main", git(repository, "commit-tree", tree, "-m", "x"))


def blob(repository: Path, content: bytes) -> str:
    return git(repository, "hash-object", "-w", "--stdin", given=content)


async def why_not(fetcher: GitFetcher, source: GitSource, grant: Grant | None = None) -> str:
    with pytest.raises(FetchFailed) as failed:
        await fetcher.fetch(source, grant)
    assert list(fetcher._where.iterdir()) == []
    assert "\n" not in failed.value.detail
    return failed.value.detail


# -- what is fetched ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", [None, "main", "refs/heads/main", "light", "annotated", "commit"])
async def test_a_ref_is_a_branch_a_tag_or_a_commit(fetcher: GitFetcher, site: Site, ref: str | None) -> None:
    made = repository(site.root, "a", FILES)
    first = git(made, "rev-parse", "HEAD")
    git(made, "tag", "light")
    git(made, "tag", "--annotate", "annotated", "--message=x")
    if ref == "commit":
        (made / "main.py").write_text("second")
        git(made, "commit", "--quiet", "--all", "--message=second")

    tree = await fetcher.fetch(GitSource(url=site.url("a"), ref=first if ref == "commit" else ref), None)

    assert in_tree(tree) == {name: text.encode() for name, text in FILES.items()}
    assert (tree.commit, tree.files, tree.bytes, tree.omitted) == (first, 2, 15, 0)
    assert [path.name for path in tree.path.parent.iterdir()] == ["tree"]


async def test_a_tree_that_is_released_is_gone(fetcher: GitFetcher, site: Site) -> None:
    repository(site.root, "a", FILES)
    tree = await fetcher.fetch(GitSource(url=site.url("a")), None)

    await fetcher.release(tree)
    await fetcher.release(tree)

    assert list(fetcher._where.iterdir()) == []


async def test_what_another_control_plane_left_is_swept(fetcher: GitFetcher, site: Site) -> None:
    repository(site.root, "a", FILES)
    await fetcher.fetch(GitSource(url=site.url("a")), None)

    GitFetcher.open(fetcher._where, ())

    assert list(fetcher._where.iterdir()) == []


def test_a_clone_that_is_still_being_ended_keeps_no_server_from_starting(tmp_path: Path) -> None:
    left = tmp_path / "sources" / "0123456789abcdef"
    left.mkdir(parents=True)

    def writes_on() -> None:
        with contextlib.suppress(FileNotFoundError):
            for number in range(20_000):
                (left / str(number)).touch()

    ending = threading.Thread(target=writes_on)
    ending.start()
    GitFetcher.open(tmp_path / "sources", ())
    ending.join()

    assert not left.exists()


def test_the_doctor_looks_for_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (there,) = [check for check in diagnose(Settings(home=tmp_path)) if check.name == "git"]
    monkeypatch.setattr(Git, "find", lambda: None)
    (missing,) = [check for check in diagnose(Settings(home=tmp_path)) if check.name == "git"]

    assert (there.holds, missing.holds, missing.essential) == (True, False, False)
    assert "apt-get install git" in missing.mend


async def test_there_is_none_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Git, "find", lambda: None)

    assert GitFetcher.open(tmp_path / "sources", ()) is None


@pytest.mark.parametrize("ref", ["nope", "a..b", "0" * 40])
async def test_a_ref_that_is_not_there_is_told(fetcher: GitFetcher, site: Site, ref: str) -> None:
    repository(site.root, "a", FILES)

    assert "no such ref" in await why_not(fetcher, GitSource(url=site.url("a"), ref=ref))


async def test_an_empty_repository_is_told(fetcher: GitFetcher, site: Site) -> None:
    (site.root / "a").mkdir()
    git(site.root / "a", "init", "--quiet")

    assert "empty" in await why_not(fetcher, GitSource(url=site.url("a")))


async def test_a_ref_of_no_commit_is_told(fetcher: GitFetcher, site: Site) -> None:
    made = repository(site.root, "a", FILES)
    git(made, "update-ref", "refs/tags/file", blob(made, b"x"))

    assert "not of a commit" in await why_not(fetcher, GitSource(url=site.url("a"), ref="file"))


async def test_a_repository_that_is_not_there_is_told(fetcher: GitFetcher, site: Site) -> None:
    assert "no repository" in await why_not(fetcher, GitSource(url=site.url("a")))


# -- hostile repositories ----------------------------------------------------------------------------------------------


async def test_nothing_that_a_repository_holds_is_run_or_obeyed(fetcher: GitFetcher, site: Site) -> None:
    """Filters, attributes, hooks, and a tree that is itself a repository whose settings name programs."""
    files = {
        ".gitattributes": "* text eol=crlf ident filter=lfs working-tree-encoding=UTF-16 export-subst\n",
        ".lfsconfig": "[lfs]\n url = http://127.0.0.1:1/\n",
        "ident": "$Id$ $Format:%H$\n",
        "HEAD": "ref: refs/heads/main\n",
        "config": "[core]\n fsmonitor = touch /work/tree/owned\n hooksPath = hooks\n sshCommand = touch owned\n",
        "hooks/post-checkout": "#!/bin/sh\ntouch /work/tree/owned owned\n",
        "objects/x": "",
        "refs/x": "",
    }
    made = repository(site.root, "a", {})
    for path, text in files.items():
        (made / path).parent.mkdir(exist_ok=True)
        (made / path).write_text(text)
    raw = {path: blob(made, text.encode()) for path, text in files.items()}
    for path, name in raw.items():
        git(made, "update-index", "--add", "--cacheinfo", f"100755,{name},{path}")
    git(made, "commit", "--quiet", "--message=x")

    tree = await fetcher.fetch(GitSource(url=site.url("a")), None)

    assert in_tree(tree) == {path: text.encode() for path, text in files.items()}


@pytest.mark.parametrize("url", ["ext::sh -c 'touch /work/tree/owned'", "file:///etc", "../../etc"])
async def test_submodules_are_empty_directories(fetcher: GitFetcher, site: Site, url: str) -> None:
    made = repository(site.root, "a", FILES)
    settings = blob(made, f'[submodule "s"]\n path = s\n url = {url}\n'.encode())
    commit(made, f"100644 blob {settings}\t.gitmodules", f"160000 commit {'1' * 40}\ts")

    tree = await fetcher.fetch(GitSource(url=site.url("a")), None)

    assert set(in_tree(tree)) == {".gitmodules"}
    assert list((tree.path / "s").iterdir()) == []


async def test_what_git_finds_malformed_is_refused(fetcher: GitFetcher, site: Site) -> None:
    """Such as a submodule's url that git would take for an option (CVE-2018-17456)."""
    made = repository(site.root, "a", FILES)
    settings = blob(made, b'[submodule "s"]\n path = s\n url = -u./payload\n')
    commit(made, f"100644 blob {settings}\t.gitmodules", f"160000 commit {'1' * 40}\ts")

    assert "malformed" in await why_not(fetcher, GitSource(url=site.url("a")))


async def test_links_out_of_the_tree_are_left_out_and_counted(fetcher: GitFetcher, site: Site) -> None:
    made = repository(site.root, "a", FILES)
    for name, target in (("in", "main.py"), ("out", "../../../../etc/passwd"), ("absolute", "/etc/passwd")):
        (made / name).symlink_to(target)
    git(made, "add", "--all")
    git(made, "commit", "--quiet", "--message=links")

    tree = await fetcher.fetch(GitSource(url=site.url("a")), None)

    assert (tree.files, tree.omitted) == (3, 2)
    assert [path.name for path in tree.path.iterdir() if path.is_symlink()] == ["in"]


@pytest.mark.parametrize("name", [".GIT", ".git", "git~1", ".git ", "..", "."])
async def test_names_that_stand_for_git_are_refused(fetcher: GitFetcher, site: Site, name: str) -> None:
    made = repository(site.root, "a", FILES)
    inner = git(made, "mktree", given=f"100644 blob {blob(made, b'x')}\tconfig\n".encode())
    commit(made, f"40000 tree {inner}\t{name}")

    assert await why_not(fetcher, GitSource(url=site.url("a")))


async def test_too_many_files_are_refused(fetcher: GitFetcher, site: Site) -> None:
    made = repository(site.root, "a", FILES)
    one = blob(made, b"x")
    commit(made, *(f"100644 blob {one}\t{number}" for number in range(20_001)))

    assert "20000 files" in await why_not(fetcher, GitSource(url=site.url("a")))


async def test_a_tree_that_unfolds_without_end_is_refused(fetcher: GitFetcher, site: Site) -> None:
    """Ten levels of ten directories that are all the same one: 32 objects, ten thousand million files."""
    made = repository(site.root, "a", FILES)
    entry = f"100644 blob {blob(made, b'x')}"
    for _ in range(10):
        tree = git(made, "mktree", given="".join(f"{entry}\t{number}\n" for number in range(10)).encode())
        entry = f"40000 tree {tree}"
    commit(made, f"{entry}\tbomb")

    assert "20000 files" in await why_not(fetcher, GitSource(url=site.url("a")))


@pytest.mark.slow
async def test_a_file_that_unpacks_to_more_than_the_bound_is_refused(fetcher: GitFetcher, site: Site) -> None:
    made = repository(site.root, "a", FILES)
    commit(made, f"100644 blob {blob(made, bytes(257 << 20))}\tzeros")

    assert "256 MiB" in await why_not(fetcher, GitSource(url=site.url("a")))


async def test_what_is_sent_is_bounded_while_it_is_received(
    fetcher: GitFetcher, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's bound on a file ends git; here it is lowered, and the pack cannot be made smaller."""
    made = repository(site.root, "a", FILES)
    commit(made, f"100644 blob {blob(made, os.urandom(3 << 20))}\tnoise")
    lower = "from enclave.source import cage;cage._RLIMITS=((cage.resource.RLIMIT_FSIZE,1<<20),);main()"
    assert in_tree(await fetcher.fetch(GitSource(url=site.url("a")), None)).keys() == {"noise"}
    monkeypatch.setattr(module, "_BOOT", module._BOOT.replace("main()", lower))

    with pytest.raises(FetchFailed, match="larger than"):
        await fetcher.fetch(GitSource(url=site.url("a")), None)


# -- hostile servers ---------------------------------------------------------------------------------------------------


async def test_a_redirect_is_not_followed(fetcher: GitFetcher, site: Site, tmp_path: Path) -> None:
    repository(site.root, "a", FILES)
    with serving(Site(site.root)) as other:

        def elsewhere(answer: BaseHTTPRequestHandler) -> None:
            answer.send_response(302)
            answer.send_header("Location", f"http://127.0.0.1:{other.port}{answer.path}")
            answer.send_header("Content-Length", "0")
            answer.end_headers()

        site.instead = elsewhere
        assert "elsewhere" in await why_not(fetcher, GitSource(url=site.url("a")), grant(site))
        assert len(site.asked) == 1
        assert other.asked == []


class Hanging:
    """Answers a byte, and no more; `left` is set once the client has gone."""

    def __init__(self) -> None:
        self.asked, self.left = threading.Event(), threading.Event()

    def __call__(self, answer: BaseHTTPRequestHandler) -> None:
        answer.send_response(200)
        answer.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
        answer.send_header("Content-Length", "1000")
        answer.end_headers()
        answer.wfile.write(b"0")
        self.asked.set()
        answer.connection.recv(1)
        self.left.set()


async def test_a_server_that_never_ends_is_left_after_a_while(
    fetcher: GitFetcher, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 1.0)
    site.instead = hanging = Hanging()

    assert await why_not(fetcher, GitSource(url=site.url("a"))) == cage.TOO_SLOW
    assert await asyncio.to_thread(hanging.left.wait, 10)


async def test_a_fetch_that_is_cancelled_leaves_nothing(fetcher: GitFetcher, site: Site) -> None:
    site.instead = hanging = Hanging()
    fetching = asyncio.create_task(fetcher.fetch(GitSource(url=site.url("a")), None))
    assert await asyncio.to_thread(hanging.asked.wait, 10)

    fetching.cancel()
    await asyncio.wait((fetching,))

    assert fetching.cancelled()
    assert list(fetcher._where.iterdir()) == []
    assert await asyncio.to_thread(hanging.left.wait, 10)


async def test_git_does_not_outlive_a_control_plane_that_is_killed(site: Site, tmp_path: Path) -> None:
    site.instead = hanging = Hanging()
    code = (
        "import asyncio, sys; from pathlib import Path; from enclave.source.git import GitFetcher\n"
        "from ipaddress import ip_network\n"
        "from enclave.contracts.sessions import GitSource\n"
        "async def main():\n"
        "    fetcher = GitFetcher.open(Path(sys.argv[1]), [ip_network('127.0.0.0/8')])\n"
        "    await fetcher.fetch(GitSource(url=sys.argv[2]), None)\n"
        "asyncio.run(main())"
    )
    where = tmp_path / "sources"
    doomed = subprocess.Popen([sys.executable, "-c", code, str(where), site.url("a")])  # noqa: ASYNC220
    assert await asyncio.to_thread(hanging.asked.wait, 10)

    doomed.send_signal(signal.SIGKILL)
    doomed.wait()

    assert await asyncio.to_thread(hanging.left.wait, 10)
    assert len(list(where.iterdir())) == 1
    GitFetcher.open(where, ())
    assert list(where.iterdir()) == []


async def test_a_dumb_server_is_not_walked(fetcher: GitFetcher, site: Site) -> None:
    """What such a server names as alternates could be anywhere."""
    made = repository(site.root, "a", FILES)
    git(made, "update-server-info")

    def plainly(answer: BaseHTTPRequestHandler) -> None:
        path = made / ".git" / answer.path.partition("?")[0].removeprefix("/a/")
        if not path.is_file():
            return refuse(answer, 404)
        answer.send_response(200)
        answer.send_header("Content-Length", str(path.stat().st_size))
        answer.end_headers()
        answer.wfile.write(path.read_bytes())

    site.instead = plainly

    assert "smart" in await why_not(fetcher, GitSource(url=site.url("a")))


async def test_git_speaks_to_the_address_that_was_checked(
    fetcher: GitFetcher, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name server is asked where git runs: a name means what was checked, or nothing."""

    async def resolved(_: object) -> list[Address]:
        return [ip_address("127.0.0.1")]

    monkeypatch.setattr(address, "_resolve", resolved)
    repository(site.root, "a", FILES)

    tree = await fetcher.fetch(GitSource(url=f"http://no.such.host.invalid:{site.port}/a"), None)

    assert tree.files == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_https_is_spoken_to_whom_the_machines_authorities_vouch_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(site.root, "a", FILES)
    pem = tmp_path / "pem"
    who = ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1,DNS:git.invalid"]
    make = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", *who, "-keyout", "k", "-out", "c"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)  # noqa: ASYNC221
    pem.write_bytes((tmp_path / "c").read_bytes() + (tmp_path / "k").read_bytes())

    with serving(Site(site.root, certificate=pem)) as secure:
        stranger = GitFetcher.open(tmp_path / "sources", LEAVE)
        assert stranger is not None
        assert "not trusted" in await why_not(stranger, GitSource(url=secure.url("a")))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "c"))
        friend = GitFetcher.open(tmp_path / "sources", LEAVE)
        assert friend is not None
        assert (await friend.fetch(GitSource(url=secure.url("a")), grant(secure))).files == 2
        assert secure.asked[-1][1] == f"Bearer {TOKEN}"


async def test_an_address_without_leave_is_never_spoken_to(site: Site, tmp_path: Path) -> None:
    made = GitFetcher.open(tmp_path / "sources", (ip_network("10.0.0.0/8"),))
    assert made is not None

    assert "ENCLAVE_EGRESS_PRIVATE" in await why_not(made, GitSource(url=site.url("a")))
    assert site.asked == []


# -- the secret --------------------------------------------------------------------------------------------------------


def grant(site: Site, **changes: Any) -> Grant:
    return Grant(**{"name": "x", "url": site.url(""), "inject": "bearer", "secret": TOKEN, **changes})


@pytest.mark.parametrize(
    ("changes", "authorization"),
    [
        ({}, f"Bearer {TOKEN}"),
        ({"inject": "basic", "secret": f"u:{TOKEN}"}, f"Basic {b64encode(f'u:{TOKEN}'.encode()).decode()}"),
        ({"inject": "header", "parameter": "Authorization", "template": "token {secret}"}, f"token {TOKEN}"),
    ],
)
async def test_a_bindings_secret_is_sent_and_left_nowhere(
    fetcher: GitFetcher, site: Site, changes: dict[str, Any], authorization: str
) -> None:
    repository(site.root, "a", FILES)
    site.authorization = authorization

    tree = await fetcher.fetch(GitSource(url=site.url("a")), grant(site, **changes))

    assert in_tree(tree).keys() == FILES.keys()
    assert {sent for _, sent in site.asked} == {authorization}
    left = b"".join(path.read_bytes() for path in fetcher._where.rglob("*") if path.is_file())
    assert TOKEN.encode() not in left
    assert not any(TOKEN in str(path) for path in fetcher._where.rglob("*"))


async def test_a_secret_is_in_no_argument_of_any_process(fetcher: GitFetcher, site: Site) -> None:
    seen: list[bytes] = []

    def look(answer: BaseHTTPRequestHandler) -> None:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(process.read_bytes())
            except OSError:  # it has ended meanwhile
                continue
        refuse(answer, 404)

    site.instead = look

    await why_not(fetcher, GitSource(url=site.url("a")), grant(site))

    assert any(site.url("a").encode() in line for line in seen)
    assert not any(TOKEN.encode() in line for line in seen)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
async def test_a_server_that_repeats_the_secret_is_not_quoted(
    fetcher: GitFetcher, site: Site, status: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    site.instead = lambda answer: refuse(answer, status)

    detail = await why_not(fetcher, GitSource(url=site.url("a")), grant(site))

    assert site.asked[0][1] == f"Bearer {TOKEN}"
    assert not any(TOKEN in text for text in (detail, *capfd.readouterr(), caplog.text))


async def test_a_wrong_secret_is_told(fetcher: GitFetcher, site: Site) -> None:
    repository(site.root, "a", FILES)
    site.authorization = "Bearer right"

    assert "refuses the credentials" in await why_not(fetcher, GitSource(url=site.url("a")), grant(site))
    assert "refuses the credentials" in await why_not(fetcher, GitSource(url=site.url("a")))


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "https://example.org"},
        {"url": "http://127.0.0.1:1/"},
        {"paths": ("/b",)},
        {"methods": ("GET",)},
        {"inject": "query", "parameter": "token"},
        {"secret": f"{TOKEN}\r\nX-More: 1"},
    ],
)
async def test_a_binding_that_is_not_for_this_is_not_used(
    fetcher: GitFetcher, site: Site, changes: dict[str, Any]
) -> None:
    detail = await why_not(fetcher, GitSource(url=site.url("a")), grant(site, **changes))

    assert "'x'" in detail
    assert TOKEN not in detail
    assert site.asked == []


@pytest.mark.parametrize(("_", "words"), cage.SAID)
def test_only_words_of_ours_are_told(_: str, words: str) -> None:
    assert cage.told(f"remote: {TOKEN}\nfatal: something {TOKEN}\n") == "git could not fetch it"
    assert TOKEN not in words


# -- the walls ---------------------------------------------------------------------------------------------------------

PROBE = """#!/bin/sh
oid=0000000000000000000000000000000000000000
case "$2" in
init)
    mkdir /work/git
    { id -u; id -G; ls /; ls -A /proc; ls /root /home "$HOME"; cat /etc/shadow; touch /usr/x /x; ulimit -f
      chown 0 /work/git; env; } >/work/found 2>&1 ;;
rev-parse) echo $oid ;;
ls-tree) printf '100644 blob %s %7d\\tfound\\0' $oid "$(wc -c </work/found)" ;;
cat-file) printf '%s blob %d\\n' $oid "$(wc -c </work/found)"; cat /work/found; echo ;;
esac
"""


async def test_git_runs_behind_walls(tmp_path: Path, site: Site) -> None:
    """A git that has been taken over finds a bare root, no privilege, and no process but its own."""
    (tmp_path / "bin").mkdir()
    probe = tmp_path / "bin" / "git"
    probe.write_text(PROBE)
    for place in (probe, tmp_path, *list(tmp_path.parents)[:-2]):
        place.chmod(0o755)
    fetcher = GitFetcher(tmp_path / "sources", Git(str(probe), str(tmp_path / "bin"), "2.39"), LEAVE)
    (tmp_path / "sources").mkdir()

    tree = await fetcher.fetch(GitSource(url=site.url("a")), None)

    uid, groups, *found = (tree.path / "found").read_text().splitlines()
    if os.geteuid() == 0:
        assert int(uid) >= module._FIRST_UID
        assert groups == uid
    assert set(found[: found.index("work") + 1]) == {*"bin dev etc lib lib64 proc sbin sys tmp usr var work".split()}
    text = "\n".join(found)
    for missing in ("/root", "/home", "/nonexistent", "/etc/shadow"):
        assert f"{missing}': No such file" in text or f"{missing}: No such file" in text
    assert "'/usr/x': Read-only" in text
    assert "'/x': Read-only" in text
    assert str(MOST_BYTES // 512) in found
    assert "changing ownership" in text
