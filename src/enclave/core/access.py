"""Which role may do what."""

from collections.abc import Iterable, Mapping
from typing import Final

from enclave.contracts.errors import FieldProblem, Forbidden, InvalidRequest
from enclave.contracts.identity import Principal, Role, Scope, WhoAmI
from enclave.contracts.operations import Operation

ROLES: Final[Mapping[Role, frozenset[Scope]]] = {
    Role.OWNER: frozenset(Scope),
    Role.ADMIN: frozenset(Scope) - {Scope.OWNERS_WRITE, Scope.ORGS_WRITE},
    Role.DEVELOPER: frozenset({Scope.SESSIONS_READ, Scope.SESSIONS_WRITE, Scope.BINDINGS_READ}),
    Role.VIEWER: frozenset({Scope.SESSIONS_READ, Scope.BINDINGS_READ}),
    Role.AUDITOR: frozenset(
        {Scope.SESSIONS_READ, Scope.BINDINGS_READ, Scope.MEMBERS_READ, Scope.KEYS_READ, Scope.AUDIT_READ}
        | {Scope.WEBHOOKS_READ}
    ),
}
"""What each role may do, and all that it may do."""


def authorize(principal: Principal, operation: Operation) -> None:
    """Pass if the principal holds the operation's scope; raise Forbidden, naming it, if not. Nobody's in an org is the
    operator's."""
    if operation.operator:
        raise Forbidden("only the operator may")
    if operation.scope is not None and operation.scope not in principal.scopes:
        # A key may have fewer scopes than its role.
        lacking = f"the role {principal.role}" if principal.scopes == ROLES[principal.role] else "this credential"
        raise Forbidden(f"{lacking} lacks the scope {operation.scope}")


def lesser(role: Role, other: Role) -> Role:
    """The greatest role that may no more than either: of an auditor and a developer that is a viewer."""
    shared = ROLES[role] & ROLES[other]
    down = sorted((role, other), key=list(Role).index, reverse=True)
    return next(one for one in (*down, Role.VIEWER) if ROLES[one] <= shared)


def narrowed(principal: Principal, role: Role | None, scopes: Iterable[Scope] | None) -> tuple[Role, frozenset[Scope]]:
    """The role and scopes that a principal passes on. Raises Forbidden where they are more than its own, and
    InvalidRequest for a scope that the role has not."""
    given = role or principal.role
    if not ROLES[given] <= ROLES[principal.role]:
        raise Forbidden(f"the role {principal.role} cannot pass on the role {given}")
    if scopes is None:
        scopes = principal.scopes if role is None else ROLES[given]
    wanted = frozenset(scopes)
    if beyond := wanted - ROLES[given]:
        message = f"the role {given} has not: {', '.join(ordered(beyond))}"
        raise InvalidRequest("a scope is not of the role", errors=(FieldProblem(field="scopes", message=message),))
    if beyond := wanted - principal.scopes:
        raise Forbidden(f"you cannot pass on what you lack: {', '.join(ordered(beyond))}")
    return given, wanted


def ordered(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """The scopes in the order in which they are declared."""
    return tuple(sorted(scopes, key=list(Scope).index))


def who_is(principal: Principal) -> WhoAmI:
    """A principal as it is told to itself."""
    return WhoAmI(
        user_id=principal.user_id, org_id=principal.org_id, role=principal.role, scopes=ordered(principal.scopes)
    )
