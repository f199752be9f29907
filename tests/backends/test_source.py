"""The tree that a session starts with: its own, and no other's; and what it tells of the secret it was fetched with."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from enclave.backends.base import Mounted
from enclave.backends.local import LocalBackend, connection
from enclave.contracts.policy import Guarantee
from enclave.contracts.sessions import GitSource
from enclave.core.grant import Grant
from enclave.source.git import GitFetcher
from tests.backends.running import spec
from tests.source.serving import LEAVE, Site, repository, serving

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox]

WAIT = "print(1)\nimport time\ntime.sleep(60)"
HUNT = """
import os
def names(place):
    try: return [f"{place}/{name}" for name in os.listdir(place)]
    except NotADirectoryError: return []
    except FileNotFoundError: return []
    except PermissionError: return [f"{place} is there"]
found = [line for line in open("/proc/self/mountinfo") if "/.sources" in line or "/theirs/" in line]
found += names("/.sources")
for process in os.listdir("/proc"):
    for link in ("root", "cwd") if process.isdigit() and process != "1" else ():
        found += names(f"/proc/{process}/{link}/.sources")
        found += [n for n in names(f"/proc/{process}/{link}/work/src") if "marker" in n]
for place, directories, files in os.walk("/"):
    directories[:] = [d for d in directories if os.path.join(place, d) not in ("/proc", "/usr", "/sys", "/dev")]
    found += [os.path.join(place, f) for f in files if f.startswith("marker")]
for beyond in ("/work/src/..", "/work/src/../..", "/work/src/../../theirs/tree"):
    found += [n for n in names(beyond) if "tree" in n or "marker" in n]
enclave.result(found)
"""


def make(sources: Path, name: str, marker: str) -> Mounted:
    tree = sources / name / "tree"
    tree.mkdir(parents=True)
    (tree / marker).write_text("x")
    return Mounted(tree)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LocalBackend]:
    made = LocalBackend(home=tmp_path, pool=1, sources=tmp_path / "sources")
    (tmp_path / "sources").mkdir(mode=0o700)
    await made.start()
    yield made
    await made.close()


async def run(backend: LocalBackend, code: str, source: Mounted | None) -> object:
    sandbox = await backend.launch(replace(spec(), source=source))
    workload = await sandbox.run(code)
    said = [output async for output in workload.output()]
    ended = await workload.wait()
    await sandbox.teardown()
    assert ended.value is not None, said
    return json.loads(ended.value)


async def hunted(backend: LocalBackend, sources: Path) -> list[object]:
    """What a session with a source, and one without, find of the source of a third that runs beside them."""
    mine, theirs = make(sources, "mine", "own"), make(sources, "theirs", "marker")
    neighbour = await backend.launch(replace(spec(), source=theirs))
    try:
        workload = await neighbour.run(WAIT)
        await anext(aiter(workload.output()))
        return [await run(backend, HUNT, source) for source in (mine, None)]
    finally:
        await neighbour.teardown()


async def test_the_sources_of_others_are_out_of_reach(backend: LocalBackend, tmp_path: Path) -> None:
    assert await hunted(backend, tmp_path / "sources") == [[], []]


@pytest.mark.root
async def test_they_would_be_found_if_a_sandbox_kept_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = (
        "from enclave.sandbox import linux;was=linux.umount;"
        "linux.umount=lambda at,was=was:None if at==chr(47)+'.sources' else was(at);main(s)"
    )
    monkeypatch.setattr(connection, "_BOOT", connection._BOOT.replace("main(s)", keep))
    backend = LocalBackend(home=tmp_path, pool=1, sources=tmp_path / "sources")
    (tmp_path / "sources").mkdir(mode=0o700)
    await backend.start()
    try:
        found = await hunted(backend, tmp_path / "sources")
    finally:
        await backend.close()

    assert all("/.sources" in json.dumps(one) for one in found)


async def test_a_session_has_its_own_tree(backend: LocalBackend, tmp_path: Path) -> None:
    mine = make(tmp_path / "sources", "mine", "own")

    assert await run(backend, "import os; enclave.result(os.listdir('/work/src'))", mine) == ["own"]
    assert await run(backend, "import os; enclave.result(os.path.exists('/work/src'))", None) is False


async def test_a_backend_that_knows_of_no_sources_does_not_promise_them(tmp_path: Path, backend: LocalBackend) -> None:
    without = LocalBackend(home=tmp_path, pool=0)
    await without.start()
    try:
        assert backend.guarantees - without.guarantees == {Guarantee.GIT_SOURCE}
    finally:
        await without.close()


TOKEN = "hunter2-secret-token"
HUNT_TOKEN = r"""
import os, re
# A pattern that does not find itself.
token = re.compile(rb"hunter[2]-secret-toke[n]")
found = []
def look(place, most=1 << 20):
    try:
        with open(place, "rb") as file:
            if token.search(file.read(most)): found.append(place)
    except OSError: pass
for process in os.listdir("/proc"):
    if process.isdigit():
        for name in ("environ", "cmdline", "maps", "mountinfo", "status"): look(f"/proc/{process}/{name}")
skipped = ("/proc", "/usr", "/sys", "/dev")
for place, directories, files in os.walk("/"):
    directories[:] = [d for d in directories if os.path.join(place, d) not in skipped]
    found += [name for name in directories + files if token.search(os.fsencode(name))]
    for file in files: look(os.path.join(place, file))
found += [name for name, value in os.environb.items() if token.search(value)]
found += [name for name in os.listdir("/work/src") if name.lower().startswith((".git", "git"))]
for name in ("~/.gitconfig", "~/.config/git", "~/.netrc", "~/.git-credentials", "/etc/gitconfig", "/work/git"):
    found += [name] if os.path.exists(os.path.expanduser(name)) else []
with open("/proc/self/mem", "rb", buffering=0) as memory:
    for region in open("/proc/self/maps").read().splitlines():
        ends, rights = region.split()[:2]
        if not rights.startswith("rw") or "[v" in region: continue
        start, stop = (int(end, 16) for end in ends.split("-"))
        memory.seek(start)
        if token.search(memory.read(min(stop - start, 64 << 20))): found.append(region)
enclave.result(found)
"""


async def test_a_program_finds_nothing_of_the_secret_its_source_was_fetched_with(
    backend: LocalBackend, tmp_path: Path
) -> None:
    fetcher = GitFetcher.open(tmp_path / "sources", LEAVE)
    assert fetcher is not None
    (tmp_path / "served").mkdir()
    with serving(Site(tmp_path / "served", authorization=f"Bearer {TOKEN}")) as site:
        repository(site.root, "a", {"main.py": "x"})
        grant = Grant(name="x", url=site.url(""), inject="bearer", secret=TOKEN)
        tree = await fetcher.fetch(GitSource(url=site.url("a")), grant)

    assert await run(backend, HUNT_TOKEN, Mounted(tree.path)) == []
    # It is no blind hunter: what has the secret is found.
    (tree.path / "left").write_text(TOKEN)
    found = await run(backend, f"import os\nmine = {TOKEN!r}\n{HUNT_TOKEN}", Mounted(tree.path))
    assert isinstance(found, list)
    assert {"/work/src/left", "/work/main.py"} <= set(found)
    assert any("-" in place for place in found)
