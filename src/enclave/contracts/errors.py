"""Everything that can go wrong on the platform's side, as one tree, free of any transport.

    EnclaveError                    code, detail (safe to show), retryable
    ├── InvalidRequest              the caller must change the request
    ├── Unauthenticated             no credential, or none that is valid
    ├── Forbidden                   the role lacks the scope
    │   └── PolicyForbids           the org's policy, or the operator's floor under it, does not allow what is asked for
    ├── NotFound                    absent, or another org's: the same answer on purpose
    │   └── NoSuchFile              the session is there; it kept no such file, or keeps it no longer
    ├── Conflict                    the state things are in does not allow this
    │   ├── StaleSession            another writer moved it first
    │   └── KeyReused               the Idempotency-Key was taken by another request
    ├── PolicyUnenforceable         this machine cannot keep a promise the request needs
    ├── QuotaExceeded               too much, of `quota` if of an org's; retry after `retry_after` seconds
    ├── SecretUnreadable            a stored secret does not open with this server's key
    ├── Unavailable                 a part of the platform is not answering
    │   └── ConnectionFailed        (clients only) no server could be reached
    └── InternalError               a bug on the platform's side

A program that fails is not an error: it is a result.
"""

from collections.abc import Mapping
from typing import ClassVar, Final

from pydantic import Field

from enclave.contracts.wire import Wire


class FieldProblem(Wire):
    """One thing wrong with one field of a request; `field` is its path on the wire, such as `limits.memoryMiB`."""

    field: str
    message: str


class Problem(Wire):
    """An error on the wire (RFC 9457, application/problem+json)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: tuple[FieldProblem, ...] = Field(default=())
    retry_after: float | None = None
    quota: str | None = None


class EnclaveError(Exception):
    """Something went wrong on the platform's side."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(
        self, detail: str | None = None, *, errors: tuple[FieldProblem, ...] = (), retry_after: float | None = None
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").split("\n", 1)[0]
        self.errors = errors
        self.retry_after = retry_after
        super().__init__(self.detail)


class InvalidRequest(EnclaveError):
    """The request is malformed; the errors name the fields and their bounds."""

    code = "invalid_request"


class Unauthenticated(EnclaveError):
    """A valid credential is required: send `Authorization: Bearer <API key or JWT>`."""

    code = "unauthenticated"


class Forbidden(EnclaveError):
    """Your role does not allow this operation."""

    code = "forbidden"


class PolicyForbids(Forbidden):
    """Your org's policy, or the operator's, does not allow what is asked for; the errors name the fields."""

    code = "policy_forbids"


class NotFound(EnclaveError):
    """No such thing, or none of your org's."""

    code = "not_found"


class NoSuchFile(NotFound):
    """The session kept no such file, or keeps it no longer."""

    code = "no_such_file"


class Conflict(EnclaveError):
    """The state things are in does not allow this."""

    code = "conflict"


class StaleSession(Conflict):
    """Someone else moved the session first; read it again."""

    code = "stale_session"
    retryable = True


class KeyReused(Conflict):
    """The Idempotency-Key was used for another request within the last 24 hours; take a new key for a new request."""

    code = "idempotency_key_reused"


class PolicyUnenforceable(EnclaveError):
    """This machine cannot enforce what the request asks for; `enclave doctor` says why."""

    code = "policy_unenforceable"


class QuotaExceeded(EnclaveError):
    """Too much at once; wait and retry. `quota` names the quota of the org that is used up, None for a bound that is
    not an org's."""

    code = "quota_exceeded"
    retryable = True

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: tuple[FieldProblem, ...] = (),
        retry_after: float | None = None,
        quota: str | None = None,
    ) -> None:
        super().__init__(detail, errors=errors, retry_after=retry_after)
        self.quota = quota


class SecretUnreadable(EnclaveError):
    """A stored secret does not open: the server's key is not the one it was sealed with, or the record was changed."""

    code = "secret_unreadable"


class Unavailable(EnclaveError):
    """A part of the platform is not answering; retry shortly."""

    code = "unavailable"
    retryable = True


class ConnectionFailed(Unavailable):
    """No Enclave server could be reached."""

    code = "connection_failed"


class InternalError(EnclaveError):
    """The platform made a mistake; the server's log has the details."""

    code = "internal_error"


ERRORS: Final[Mapping[str, type[EnclaveError]]] = {
    kind.code: kind
    for kind in (
        InvalidRequest,
        Unauthenticated,
        Forbidden,
        PolicyForbids,
        NotFound,
        NoSuchFile,
        Conflict,
        StaleSession,
        KeyReused,
        PolicyUnenforceable,
        QuotaExceeded,
        SecretUnreadable,
        Unavailable,
        ConnectionFailed,
        InternalError,
    )
}
