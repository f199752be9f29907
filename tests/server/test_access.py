"""Who may do what, as a table: a change of rights is a visible change of that file."""

import os
from pathlib import Path

import pytest

from enclave.contracts.identity import Role
from enclave.contracts.operations import OPERATIONS, Operation
from tests.orchestrator.test_files import leaves
from tests.server.conftest import Site

pytestmark = pytest.mark.anyio

SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "access_matrix.txt"
CALLERS = (*Role, None)


async def test_the_access_matrix_is_as_checked_in(site: Site) -> None:
    site.backend.play = leaves({"a.txt": b"a"})
    rows = [f"{'operation':<18}{'session':<8}" + "".join(f"{role or 'nobody':<11}" for role in CALLERS)]
    for operation in OPERATIONS:
        for org_id in ("org_a", "org_b") if "{id}" in operation.path else ("org_a",):
            session = "-" if "{id}" not in operation.path else "own" if org_id == "org_a" else "other"
            statuses = [await status(site, operation, role, org_id) for role in CALLERS]
            rows.append(f"{operation.name:<18}{session:<8}" + "".join(f"{one:<11}" for one in statuses))
    matrix = "\n".join(row.rstrip() for row in rows) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(matrix)
    assert SNAPSHOT.read_text() == matrix


async def status(site: Site, operation: Operation, role: Role | None, org_id: str) -> int:
    made = await site.ask("POST", "/sessions", {"code": "x"}, token=f"owner.{org_id}", prefer="wait=5")
    path = operation.path.replace("{id}", made.json["id"]).replace("{path}", "a.txt")
    body = {"code": "x"} if operation.body else None
    answer = await site.ask(operation.method, path, body, token=f"{role}.org_a" if role else None)
    return answer.status
