"""Who may do what, as a table: a change of rights is a visible change of that file."""

import os
from pathlib import Path

import pytest

from enclave.contracts.bindings import PutBinding
from enclave.contracts.identity import Role
from enclave.contracts.keys import CreateKey
from enclave.contracts.members import (
    AcceptInvitation,
    ChangeMember,
    ChangePassword,
    Invite,
    Login,
    Refresh,
    ResetPassword,
    Switch,
)
from enclave.contracts.operations import LOGIN, OPERATIONS, REDELIVER, Operation
from enclave.contracts.orgs import AskReset, CreateOrg, FoundOrg
from enclave.contracts.sessions import CreateSessionRequest, Phase
from enclave.contracts.tenancy import OrgPolicy, OrgTerms
from enclave.core.webhook import delivery_id
from tests.orchestrator.test_files import leaves
from tests.server.conftest import BOTH, SPARE, Site

pytestmark = pytest.mark.anyio
SITES = BOTH

SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "access_matrix.txt"
OPERATOR = "operator"
CALLERS = (*Role, OPERATOR, None)
BINDING = {"url": "https://api.example.org", "inject": {"kind": "bearer"}, "secret": "s3cret"}

KEY = {"name": "k", "scopes": ["sessions:read"]}

RESET = "reset@example.org"
NO_TICKET = {"refreshToken": "er_" + "0" * 16 + "_" + "a" * 43}
BODIES: dict[object, object] = {
    ChangeMember: {"role": "viewer"},
    Invite: {"email": "a@example.org", "role": "viewer"},
    AcceptInvitation: {"code": "ei_x", "password": "no such invitation"},
    Login: {"email": "nobody@example.org", "password": "x"},
    Refresh: NO_TICKET,
    OrgPolicy: {},
    OrgTerms: {},
    Switch: {**NO_TICKET, "orgId": "org_b"},
    ChangePassword: {"current": "no such password", "new": "another password"},
    ResetPassword: {"code": "ep_x", "password": "another password"},
    CreateOrg: {"name": "o"},
    FoundOrg: {"name": "o", "ownerEmail": "a@example.org"},
    AskReset: {"email": RESET},
}


async def test_the_access_matrix_is_as_checked_in(site: Site) -> None:
    site.backend.play = leaves({"a.txt": b"a"})
    asked_in = await site.ask("POST", "/invitations", {"email": RESET, "role": "viewer"})
    await site.ask("POST", "/invitations/accept", {"code": asked_in.json["code"], "password": "a first password"})
    rows = [f"{'operation':<25}{'whose':<8}" + "".join(f"{role or 'nobody':<11}" for role in CALLERS)]
    for operation in OPERATIONS:
        # What is put is always one's own: another org's name is free.
        for org_id in ("org_a", "org_b") if "{" in operation.path and not operation.replaced else ("org_a",):
            whose = "-" if "{" not in operation.path else "own" if org_id == "org_a" else "other"
            statuses = [await status(site, operation, role, org_id) for role in CALLERS]
            rows.append(f"{operation.name:<25}{whose:<8}" + "".join(f"{one:<11}" for one in statuses))
    matrix = "\n".join(row.rstrip() for row in rows) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(matrix)
    assert SNAPSHOT.read_text() == matrix


async def status(site: Site, operation: Operation, role: str | None, org_id: str) -> int:
    made = await site.ask("POST", "/sessions", {"code": "x"}, token=f"owner.{org_id}", prefer="wait=5")
    await site.ask("PUT", f"/bindings/of-{org_id.replace('_', '-')}", BINDING, token=f"owner.{org_id}")
    if "keys" in operation.path:
        made = await site.ask("POST", "/keys", KEY, token=f"owner.{org_id}")
    site.restore(f"viewer.{org_id}")
    if "invitations/" in operation.path:
        made = await site.ask("POST", "/invitations", BODIES[Invite], token=f"owner.{org_id}")
    target = org_id if "orgs" in operation.path else made.json["id"]
    # What calls for one that is disabled is refused before it is asked what it wants.
    target = SPARE if operation.path.endswith("able") else target
    target = f"viewer.{org_id}" if "members" in operation.path else target
    if operation is REDELIVER:
        hooked = {"code": "x", "webhookUrl": "https://hooks.example.org"}
        ended = await site.ask("POST", "/sessions", hooked, token=f"owner.{org_id}", prefer="wait=5")
        target = delivery_id(ended.json["id"], Phase.SUCCEEDED)
    path = operation.path.format(id=target, name=f"of-{org_id.replace('_', '-')}", path="a.txt")
    bodies: dict[object, object] = {CreateSessionRequest: {"code": "x"}, PutBinding: BINDING, CreateKey: KEY} | BODIES
    body = bodies.get(operation.body)
    if operation is LOGIN:
        # Each is refused as who they are, not for those before them.
        body = {"email": f"{role}@example.org", "password": "x"}
    token = str(site.identity.authority.issue_operator()) if role == OPERATOR else f"{role}.org_a" if role else None
    answer = await site.ask(operation.method, path, body, token=token)
    return answer.status
