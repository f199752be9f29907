"""The terms of a run, as keywords and as the request they make."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from pydantic import ValidationError

from enclave.contracts.errors import FieldProblem, InvalidRequest
from enclave.contracts.policy import EgressMode, EgressPolicy, Language, RequestedLimits
from enclave.contracts.sessions import CreateSessionRequest, Source
from enclave.contracts.wire import wire_name


class Terms(TypedDict, total=False):
    """Under what terms a program runs; each may be left out.

    `language` is "python" (the default) or "node". `template` names an environment of packages that the operator built.
    `limits` takes RequestedLimits or a mapping such as {"memory_mib": 128, "wall_clock_seconds": 5}. `allow` lists what
    may be connected to ("example.org", "*.example.org:443", "10.0.0.0/8"); without it nothing may. `egress` is the same
    as a whole EgressPolicy; give one of the two. `source` is a git repository that the program is in or imports from,
    as a Source or {"git": {"url": "https://…", "ref": "main", "entrypoint": "main.py"}}. `labels` are yours, and
    sessions can be found by them.
    """

    language: Language | Literal["python", "node"]
    limits: RequestedLimits | Mapping[str, float]
    egress: EgressPolicy
    allow: Sequence[str]
    labels: Mapping[str, str]
    template: str | None
    source: Source | dict[str, dict[str, str | None]] | None


def request_of(code: str | CreateSessionRequest | None, terms: Terms) -> CreateSessionRequest:
    """The request that the terms make of a program, or of another request. Raises InvalidRequest, naming the fields."""
    given = (
        code.model_dump(exclude_unset=True, by_alias=False)
        if isinstance(code, CreateSessionRequest)
        else {"code": code}
    )
    try:
        # Lax, because a keyword is Python's "node" or 1.0 and not yet the wire's.
        return CreateSessionRequest.model_validate(given | _fields(terms), strict=False)
    except ValidationError as error:
        raise _invalid(error) from None


def _fields(terms: Terms) -> dict[str, object]:
    fields: dict[str, object] = dict(terms)
    if "allow" in terms:
        fields |= _allowlist(terms)
        del fields["allow"]
    if isinstance(limits := fields.get("limits"), Mapping):
        fields["limits"] = {wire_name(name): value for name, value in limits.items()}
    if "labels" in terms:
        fields["labels"] = dict(terms["labels"])
    return fields


def _allowlist(terms: Terms) -> dict[str, object]:
    if "egress" in terms:
        raise InvalidRequest("give `allow` or `egress`, not both")
    rules = terms["allow"]
    allow = (rules,) if isinstance(rules, str) else tuple(rules)
    return {"egress": {"mode": EgressMode.ALLOWLIST, "allow": allow}} if allow else {}


def _invalid(error: ValidationError) -> InvalidRequest:
    problems = tuple(
        FieldProblem(field=".".join(map(str, one["loc"])), message=one["msg"])
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    )
    named = ", ".join(dict.fromkeys(problem.field for problem in problems))
    return InvalidRequest(f"the request is malformed: {named}", errors=problems)
