"""The house rules of design and style, held by a walk over the source."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import enclave

ROOT = Path(enclave.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py"))

LAYERS: dict[str, set[str]] = {
    "contracts": set(),
    "core": {"contracts"},
    "sandbox": {"guest"},
    "guest": set(),
    "egress": {"core", "sandbox"},
    "backends": {"contracts", "core", "sandbox", "egress"},
    "store": {"contracts", "core"},
    "identity": {"contracts", "core"},
    "source": {"contracts", "core", "sandbox"},
    "webhook": {"contracts", "core", "egress"},
    "telemetry": {"contracts", "core"},
    "orchestrator": {"contracts", "core", "backends.base", "store.base", "source.base", "webhook.base"},
    "server": {"contracts", "core", "orchestrator", "identity.base"},
    "config": {"contracts", "core"},
    "proof": {"contracts", "core", "store", "config"},
    "system": {
        "proof",
        "contracts",
        "core",
        "backends",
        "store",
        "identity",
        "source",
        "webhook",
        "telemetry",
        "orchestrator",
        "server",
        "config",
    },
    "serve": {"contracts", "system", "config", "server.protocol", "telemetry.log"},
    "sdk": {"contracts"},
    "cli": {"contracts", "sdk", "serve", "system", "proof", "config"},
    "testing": {"contracts", "core", "backends.base", "store.base"},
    "__init__": {"sdk"},
    "__main__": {"cli"},
}
"""What each part may import of ours, besides itself. `cli` reaches what serves only inside the commands that serve."""

LAZY_ONLY = {"cli": {"serve", "system", "proof", "config"}, "__init__": {"sdk"}}
STANDARD_LIBRARY_ONLY = {"sandbox", "guest"}
BANNED = "util utils helper helpers common misc manager handler wrapper impl mixin".split()


def part(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            yield from (alias.name for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom) and inner.module:
            yield from (f"{inner.module}.{alias.name}" for alias in inner.names)


def ours(names: Iterator[str]) -> set[str]:
    inside = {name.removeprefix("enclave.") for name in names if name.startswith("enclave.")}
    return {name for name in inside if not name.startswith("__")}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_point_down(path: Path) -> None:
    here = part(path)
    allowed = LAYERS[here] | {here}

    upward = {
        name for name in ours(imports(tree(path))) if not any(f"{name}.".startswith(f"{lower}.") for lower in allowed)
    }

    assert upward == set()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_what_serves_is_imported_only_when_a_command_needs_it(path: Path) -> None:
    lazy = LAZY_ONLY.get(part(path), set())
    body = tree(path).body

    at_import = {
        name.split(".")[0]
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ours(imports(node))
    }

    assert at_import & lazy == set()


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) in STANDARD_LIBRARY_ONLY], ids=named)
def test_what_runs_beside_hostile_code_needs_only_the_standard_library(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imports(tree(path))} - set(sys.stdlib_module_names) - {"enclave"}

    assert foreign == set()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_name_says_nothing(path: Path) -> None:
    classes = [node.name.lower() for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    words = {word for word in [*path.relative_to(ROOT).with_suffix("").parts] for word in word.split("_")}

    assert words & set(BANNED) == set()
    assert [name for name in classes if name.endswith(tuple(BANNED))] == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420


def functions() -> Iterator[tuple[str, int, int]]:
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                counted = [argument for argument in arguments if argument.arg not in ("self", "cls")]
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                length = (node.end_lineno or 0) - body[0].lineno + 1
                yield f"{named(path)}:{node.name}", length, len(counted)


def test_functions_are_short() -> None:
    lengths = {name: length for name, length, _ in functions()}

    assert {name: length for name, length in lengths.items() if length > 40} == {}
    assert statistics.median(lengths.values()) <= 5
    assert sorted(lengths.values())[int(len(lengths) * 0.9)] <= 20


def test_no_backend_is_named_where_none_may_be_known() -> None:
    agnostic = [path for path in MODULES if part(path) in ("contracts", "core", "orchestrator", "server", "sdk")]

    naming = [
        named(path) for path in agnostic if "LocalBackend" in path.read_text() or "backends.local" in path.read_text()
    ]

    assert naming == []


def test_status_codes_live_where_http_is_spoken() -> None:
    speaking = {named(path) for path in MODULES if "starlette" in path.read_text() and part(path) != "server"}

    assert speaking == set()


def test_a_client_loads_nothing_of_the_server() -> None:
    code = "import sys, enclave; enclave.Enclave, enclave.AsyncEnclave; print(' '.join(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    forbidden = (
        "starlette",
        "uvicorn",
        "jwt",
        "cryptography",
        "sqlite3",
        "enclave.core",
        "enclave.store",
        "enclave.sandbox",
        "enclave.server",
    )
    assert [name for name in loaded if name.startswith(forbidden)] == []
