"""The terms of a run, as keywords and as the request they make."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import ValidationError

from enclave.contracts.errors import FieldProblem, InvalidRequest
from enclave.contracts.files import MAX_FILES_BYTES, Binary
from enclave.contracts.policy import EgressMode, EgressPolicy, Language, RequestedLimits
from enclave.contracts.sessions import CreateSessionRequest, Source
from enclave.contracts.wire import wire_name


class Terms(TypedDict, total=False):
    """Under what terms a program runs; each may be left out.

    `language` is "python" (the default) or "node". `template` names an environment of packages that the operator built.
    `limits` takes RequestedLimits or a mapping such as {"memory_mib": 128, "wall_clock_seconds": 5}. `allow` lists what
    may be connected to ("example.org", "*.example.org:443", "10.0.0.0/8"); without it nothing may. `egress` is the same
    as a whole EgressPolicy; give one of the two. `bindings` names service bindings that it may use. `source` is a git
    repository that the program is in or imports from, as a Source or {"git": {"url": "https://…", "ref": "main",
    "entrypoint": "main.py"}}. `labels` are yours, and sessions can be found by them. `files` are put beside the
    program, by their paths there: a string is text, bytes are bytes, and a Path is a file of yours. When it is over,
    the session is posted to `webhook_url`, an https URL of yours, signed (see `client.webhooks`).
    """

    language: Language | Literal["python", "node"]
    limits: RequestedLimits | Mapping[str, float]
    egress: EgressPolicy
    allow: Sequence[str]
    bindings: Sequence[str]
    labels: Mapping[str, str]
    template: str | None
    source: Source | dict[str, dict[str, str | None]] | None
    files: Mapping[str, str | bytes | Path]
    webhook_url: str | None


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
        raise invalid(error) from None


def _fields(terms: Terms) -> dict[str, object]:
    fields: dict[str, object] = dict(terms)
    if "allow" in terms:
        fields |= _allowlist(terms)
        del fields["allow"]
    if "bindings" in terms:
        named = terms["bindings"]
        fields["service_bindings"] = (named,) if isinstance(named, str) else tuple(named)
        del fields["bindings"]
    if isinstance(limits := fields.get("limits"), Mapping):
        fields["limits"] = {wire_name(name): value for name, value in limits.items()}
    if "labels" in terms:
        fields["labels"] = dict(terms["labels"])
    if "files" in terms:
        fields["files"] = {path: _content(path, given) for path, given in terms["files"].items()}
    return fields


def _content(path: str, given: str | bytes | Path) -> str | Binary:
    if not isinstance(given, Path):
        return given if isinstance(given, str) else Binary(base64=bytes(given))
    try:
        with given.open("rb") as file:
            content = file.read(MAX_FILES_BYTES + 1)
    except OSError as error:
        raise _bad_file(path, f"{given} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_FILES_BYTES:
        raise _bad_file(path, f"{given} has more than {MAX_FILES_BYTES} bytes")
    return Binary(base64=content)


def _bad_file(path: str, message: str) -> InvalidRequest:
    return InvalidRequest("a file cannot be sent", errors=(FieldProblem(field=f"files.{path}", message=message),))


def _allowlist(terms: Terms) -> dict[str, object]:
    if "egress" in terms:
        raise InvalidRequest("give `allow` or `egress`, not both")
    rules = terms["allow"]
    allow = (rules,) if isinstance(rules, str) else tuple(rules)
    return {"egress": {"mode": EgressMode.ALLOWLIST, "allow": allow}} if allow else {}


def invalid(error: ValidationError) -> InvalidRequest:
    """What terms that make no request mean, by the path of each field and without what was given."""
    problems = tuple(
        FieldProblem(field=".".join(map(str, one["loc"])), message=one["msg"])
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    )
    named = ", ".join(dict.fromkeys(problem.field for problem in problems))
    return InvalidRequest(f"the request is malformed: {named}", errors=problems)
