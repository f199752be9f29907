"""`enclave whoami`, and `enclave audit` of a whole org, against a server that plays recorded answers."""

import json

from enclave.contracts.audit import AuditEvent, BindingDeleted
from enclave.contracts.identity import Role, Scope, WhoAmI
from enclave.contracts.wire import Page
from tests.cli.conftest import Command
from tests.sdk.samples import NOW
from tests.sdk.scripted import ok, scripted

CALLER = WhoAmI(user_id="u", org_id="org_a", role=Role.VIEWER, scopes=(Scope.SESSIONS_READ, Scope.BINDINGS_READ))
DELETED = BindingDeleted(ts=NOW, org_id="org_a", actor="u", name="crm", seq=1)


def test_one_is_told_who_one_is(enclave: Command) -> None:
    with scripted(ok(CALLER), ok(CALLER)) as server:
        table = enclave(server.base_url, "whoami")
        document = enclave(server.base_url, "whoami", "--json")

    assert table.out.splitlines()[1].split() == ["org_a", "u", "viewer", "sessions:read", "bindings:read"]
    assert json.loads(document.out) == CALLER.model_dump(mode="json")
    assert [asked.path for asked in server.asked] == ["/whoami"] * 2


def test_without_an_id_the_trail_is_the_orgs(enclave: Command) -> None:
    with scripted(ok(Page[AuditEvent](items=(DELETED,)))) as server:
        ran = enclave(server.base_url, "audit", "--json")

    assert [event["type"] for event in json.loads(ran.out)] == ["binding_deleted"]
    assert [asked.path for asked in server.asked] == ["/audit"]
