"""Which role may do what."""

from collections.abc import Mapping
from typing import Final

from enclave.contracts.errors import Forbidden
from enclave.contracts.identity import Principal, Role, Scope
from enclave.contracts.operations import Operation

ROLES: Final[Mapping[Role, frozenset[Scope]]] = {
    Role.OWNER: frozenset(Scope),
    Role.ADMIN: frozenset(Scope),
    Role.DEVELOPER: frozenset({Scope.SESSIONS_READ, Scope.SESSIONS_WRITE, Scope.BINDINGS_READ}),
    Role.VIEWER: frozenset({Scope.SESSIONS_READ, Scope.BINDINGS_READ}),
}


def authorize(principal: Principal, operation: Operation) -> None:
    """Pass if the principal holds the operation's scope; raise Forbidden, naming it, if not."""
    if operation.scope is not None and operation.scope not in principal.scopes:
        raise Forbidden(f"the role {principal.role} lacks the scope {operation.scope}")
