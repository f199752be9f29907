"""Which role may do what."""

from itertools import pairwise

import pytest

from enclave.contracts.errors import Forbidden
from enclave.contracts.identity import Principal, Role, Scope
from enclave.contracts.operations import OPERATIONS, Operation
from enclave.core.access import ROLES, authorize

WRITES = {"create_session", "teardown_session"}
SETS_UP = {"put_binding", "delete_binding"}
READS = {
    "list_sessions", "get_session", "get_result", "get_audit", "stream_session", "get_file", "list_bindings",
    "get_binding",
}  # fmt: skip
MAY = {
    Role.OWNER: SETS_UP | WRITES | READS | {"health"},
    Role.ADMIN: SETS_UP | WRITES | READS | {"health"},
    Role.DEVELOPER: WRITES | READS | {"health"},
    Role.VIEWER: READS | {"health"},
}


def principal(role: Role) -> Principal:
    return Principal(user_id="ada", org_id="org_a", role=role, scopes=ROLES[role])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_do_what_the_table_says_and_nothing_else(role: Role, operation: Operation) -> None:
    if operation.name in MAY[role]:
        authorize(principal(role), operation)
    else:
        with pytest.raises(Forbidden, match=f"{role} lacks the scope {operation.scope}"):
            authorize(principal(role), operation)


@pytest.mark.parametrize(("higher", "lower"), [*pairwise(Role)])
def test_a_higher_role_has_all_the_scopes_of_a_lower_one(higher: Role, lower: Role) -> None:
    assert ROLES[higher] >= ROLES[lower]


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.scope], ids=lambda operation: operation.name)
def test_without_scopes_nothing_is_allowed_whatever_the_role(operation: Operation) -> None:
    bare = principal(Role.OWNER).model_copy(update={"scopes": frozenset[Scope]()})

    with pytest.raises(Forbidden):
        authorize(bare, operation)


def test_only_health_is_public() -> None:
    assert [operation.name for operation in OPERATIONS if operation.scope is None] == ["health"]


def test_whatever_changes_something_needs_the_right_to_write() -> None:
    changing = {operation.name for operation in OPERATIONS if operation.method != "GET"}

    writing = (Scope.SESSIONS_WRITE, Scope.BINDINGS_WRITE)
    assert changing == {one.name for one in OPERATIONS if one.scope in writing} == WRITES | SETS_UP
