"""Which role may do what."""

from itertools import pairwise

import pytest

from enclave.contracts.errors import Forbidden
from enclave.contracts.identity import Principal, Role, Scope
from enclave.contracts.operations import CREATE_SESSION, OPERATIONS, Operation
from enclave.core.access import ROLES, authorize, lesser

WRITES = {"create_session", "teardown_session"}
SETS_UP = {"put_binding", "delete_binding", "put_policy", "rotate_webhook_secret", "redeliver"}
READS = {
    "list_sessions", "get_session", "get_result", "get_audit", "stream_session", "get_logs", "get_file",
    "list_bindings", "get_binding", "get_usage", "get_policy",
}  # fmt: skip
AUDITS = {"get_org_audit", "list_deliveries", "list_keys", "list_members", "list_invitations"}
MEMBERS = {"change_member", "remove_member", "create_invitation", "withdraw_invitation"}
KEYS = {"create_key", "revoke_key"} | MEMBERS
PUBLIC = {"health", "ready", "accept_invitation", "login", "refresh_token", "logout", "switch_org", "reset_password"}
ORGS = {"create_org"}
ANYONES = {"whoami", "list_orgs", "change_password"}
OPERATORS = {
    "operator_list_orgs", "operator_found_org", "operator_disable_org", "operator_enable_org", "operator_revoke_key",
    "metrics", "operator_reset_password", "operator_get_terms", "operator_put_terms", "operator_get_usage",
}  # fmt: skip
ALL = READS | PUBLIC | ANYONES
MAY = {
    Role.OWNER: ALL | SETS_UP | WRITES | AUDITS | KEYS | ORGS,
    Role.ADMIN: ALL | SETS_UP | WRITES | AUDITS | KEYS,
    Role.DEVELOPER: ALL | WRITES,
    Role.VIEWER: ALL,
    Role.AUDITOR: ALL | AUDITS,
}
NAMED = {operation.name: operation for operation in OPERATIONS}
LINE = (Role.OWNER, Role.ADMIN, Role.DEVELOPER, Role.VIEWER)


def principal(role: Role) -> Principal:
    return Principal(user_id="ada", org_id="org_a", role=role, scopes=ROLES[role])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_do_what_the_table_says_and_nothing_else(role: Role, operation: Operation) -> None:
    if operation.name in MAY[role]:
        authorize(principal(role), operation)
    else:
        lacking = "only the operator may" if operation.operator else f"{role} lacks the scope {operation.scope}"
        with pytest.raises(Forbidden, match=lacking):
            authorize(principal(role), operation)


@pytest.mark.parametrize(
    ("higher", "lower"), [*pairwise(LINE), (Role.ADMIN, Role.AUDITOR), (Role.AUDITOR, Role.VIEWER)]
)
def test_a_higher_role_has_all_the_scopes_of_a_lower_one(higher: Role, lower: Role) -> None:
    assert ROLES[higher] >= ROLES[lower]


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.scope], ids=lambda operation: operation.name)
def test_without_scopes_nothing_is_allowed_whatever_the_role(operation: Operation) -> None:
    bare = principal(Role.OWNER).model_copy(update={"scopes": frozenset[Scope]()})

    with pytest.raises(Forbidden):
        authorize(bare, operation)


def test_a_key_that_may_less_than_its_role_is_told_so() -> None:
    narrow = principal(Role.OWNER).model_copy(update={"scopes": frozenset({Scope.SESSIONS_READ})})

    with pytest.raises(Forbidden, match="this credential lacks the scope sessions:write"):
        authorize(narrow, CREATE_SESSION)


def test_an_operation_asks_for_a_scope_or_is_listed_here() -> None:
    assert {operation.name for operation in OPERATIONS if operation.public} == PUBLIC
    assert {operation.name for operation in OPERATIONS if operation.any_scope} == ANYONES
    assert {operation.name for operation in OPERATIONS if operation.operator} == OPERATORS
    assert all((operation.scope is None) == (one in PUBLIC | ANYONES | OPERATORS) for one, operation in NAMED.items())


@pytest.mark.parametrize("one", list(Role))
@pytest.mark.parametrize("other", list(Role))
def test_the_lesser_of_two_roles_may_no_more_than_either(one: Role, other: Role) -> None:
    assert ROLES[lesser(one, other)] <= ROLES[one] & ROLES[other]
    assert lesser(one, other) is lesser(other, one)
    assert lesser(one, one) is one


def test_an_auditor_changes_nothing() -> None:
    assert [scope for scope in ROLES[Role.AUDITOR] if not scope.endswith(":read")] == []


def test_whatever_changes_something_needs_the_right_to_write() -> None:
    changing = {operation.name for operation in OPERATIONS if operation.method != "GET" and operation.scope}

    writing = {scope for scope in Scope if scope.endswith(":write")}
    assert changing == {one.name for one in OPERATIONS if one.scope in writing} == WRITES | SETS_UP | KEYS | ORGS
