"""What the README and the how-tos show is what happens."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from enclave.serve import embedded

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
APART = ROOT / "docs" / "howto" / "separate-identity.md"
"""Starts servers of its own, on the ports that they have by default."""
HOWTOS = sorted(set((ROOT / "docs" / "howto").glob("*.md")) - {APART})
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it, and the output below it."""

    command: str
    output: str


def shown(page: str) -> list[Shown]:
    blocks = re.findall(r"```console\n(.*?)```", page, re.S)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.M) if part]
    return [Shown(*part.split("\n", 1)) for part in parts]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("docs")
    with embedded(home) as credential:
        # Where a server runs, its home has all that is needed.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ENCLAVE_")}
        paths = {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "ENCLAVE_HOME": str(home)}
        yield clean | paths | {"SERVER": credential.base_url}


def run(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, shell=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


def compare(example: Shown, printed: str) -> None:
    expected, elided, _ = example.output.partition("…\n")
    words = [line.split() for line in printed.splitlines()]
    assert (words[: len(expected.splitlines())] if elided else words) == [
        line.split() for line in expected.splitlines()
    ]


@pytest.mark.sandbox
@pytest.mark.parametrize("example", shown(README), ids=lambda example: example.command[:50])
def test_a_command_of_the_readme_prints_what_it_says(example: Shown, environment: dict[str, str]) -> None:
    compare(example, run(example.command, environment))


@pytest.mark.sandbox
@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
def test_the_commands_of_a_how_to_do_one_after_another_what_they_say(page: Path, environment: dict[str, str]) -> None:
    for example in shown(page.read_text()):
        printed = run(example.command, environment)
        if re.search("error: (pip: |npm: |Node.js is not|npm is not)", printed):
            pytest.skip(f"what the page does cannot be installed: {printed.splitlines()[-1]}")
        compare(example, printed)


@pytest.mark.sandbox
@pytest.mark.root
def test_two_servers_do_what_the_page_about_them_says(tmp_path: Path) -> None:
    """In a network of their own, where nobody else has their ports."""
    examples = shown(APART.read_text())
    parts = [f"echo '#{number}'; {{ {one.command}\n}} 2>&1" for number, one in enumerate(examples)]
    script = "\n".join(["ip link set lo up", *parts, "echo '#'; kill %2; wait"])
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ENCLAVE_")}
    done = subprocess.run(
        ("unshare", "--net", "bash", "-c", script),
        env=clean | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    printed = re.split(r"^#\d*\n", done.stdout, flags=re.M)[1:]
    assert len(printed) == len(examples) + 1, done
    for example, output in zip(examples, printed, strict=False):
        compare(example, output)


@pytest.mark.sandbox
def test_the_python_of_the_readme_runs(environment: dict[str, str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)

    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert "{'ok': True}" in printed.stdout
    assert "['session_created', 'sandbox_started', 'workload_exited', 'result_collected']" in printed.stdout


def test_every_file_the_readme_points_at_is_there() -> None:
    assert [path for path in re.findall(r"\]\(([^)#:]+)\)", README) if not (ROOT / path).exists()] == []
