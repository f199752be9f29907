"""The OpenAPI document, drawn from the table of operations and the wire types."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from enclave.contracts.audit import AuditEvent
from enclave.contracts.bindings import BINDING_NAME
from enclave.contracts.errors import (
    Conflict,
    EnclaveError,
    Forbidden,
    InternalError,
    InvalidRequest,
    NotFound,
    PolicyUnenforceable,
    Problem,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from enclave.contracts.frames import StreamFrame
from enclave.contracts.operations import (
    ACCEPT_INVITATION,
    CHANGE_MEMBER,
    CREATE_INVITATION,
    CREATE_KEY,
    CREATE_SESSION,
    GET_FILE,
    GET_RESULT,
    LOGIN,
    LOGOUT,
    OPERATIONS,
    PUT_BINDING,
    REFRESH_TOKEN,
    REMOVE_MEMBER,
    Operation,
)
from enclave.contracts.policy import RequestedLimits
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.wire import wire_name
from enclave.core.cursor import MAX_PAGE
from enclave.core.policy import FLOOR, Ceiling
from enclave.server.problems import MEDIA_TYPE, STATUS
from enclave.server.reading import DEFAULT_PAGE, MAX_WAIT_SECONDS

Schema = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_EVERYWHERE: Final = (InternalError, Unavailable)
_GUARDED: Final = (InvalidRequest, Unauthenticated, Forbidden)
_SIGNS_IN: Final = (InvalidRequest, Unauthenticated, QuotaExceeded)
_OWN: Final[Mapping[str, tuple[type[EnclaveError], ...]]] = {
    CREATE_SESSION.name: (PolicyUnenforceable, QuotaExceeded),
    GET_RESULT.name: (Conflict,),
    GET_FILE.name: (Conflict,),
    PUT_BINDING.name: (Conflict,),
    CREATE_KEY.name: (Conflict,),
    CHANGE_MEMBER.name: (Conflict,),
    REMOVE_MEMBER.name: (Conflict,),
    CREATE_INVITATION.name: (Conflict,),
    ACCEPT_INVITATION.name: (*_SIGNS_IN, Conflict),
    LOGIN.name: (*_SIGNS_IN, Forbidden),
    REFRESH_TOKEN.name: (InvalidRequest, Unauthenticated),
    LOGOUT.name: (InvalidRequest,),
}

_PARAMETERS: Final[Mapping[str, Schema]] = {
    "limit": {
        "description": "The most items to answer.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
    },
    "cursor": {
        "description": "Where to go on: the `nextCursor` of the page before.",
        "schema": {"type": "string", "minLength": 1},
    },
    "after": {
        "description": "Where to go on: the `nextCursor` of the page before.",
        "schema": {"type": "string", "minLength": 1},
    },
    "phase": {
        "description": "Only sessions in this phase.",
        "schema": {"type": "string", "enum": list(Phase)},
    },
    "label": {
        "description": "Only sessions with this label, as `name:value`; may be repeated, and all must fit.",
        "schema": {"type": "array", "items": {"type": "string"}},
        "explode": True,
    },
}


_PATH: Final[Mapping[str, Schema]] = {
    "id": {"schema": {"type": "string"}},
    "name": {"schema": {"type": "string", "pattern": BINDING_NAME}},
    "path": {"schema": {"type": "string"}},
}

_ANSWER_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    CREATE_SESSION.name: {
        "Location": "The session's path.",
        "Preference-Applied": "`wait=N`, if a wait was asked for: the seconds that were granted.",
    },
    GET_FILE.name: {
        "ETag": "The file's SHA-256 in hexadecimal, in quotes.",
        "Content-Disposition": "`attachment`, with the file's name.",
    },
}
_RETRY_AFTER: Final = {"Retry-After": "The seconds to wait before trying again."}
_PROBLEM_HEADERS: Final[Mapping[HTTPStatus, Mapping[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "`Bearer`."},
    HTTPStatus.TOO_MANY_REQUESTS: _RETRY_AFTER,
    HTTPStatus.SERVICE_UNAVAILABLE: _RETRY_AFTER,
}


def document() -> Schema:
    """The whole interface as an OpenAPI 3.1 document."""
    named, schemas = _schemas()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Enclave",
            "version": "1",
            "description": "Runs code nobody has reviewed, and tells everything that happened.",
        },
        "servers": [{"url": "/"}],
        "paths": _paths(named),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key `ek_<id>_<secret>` or a JWT."}
            },
        },
    }


def rendered() -> str:
    """The document as it is checked in and served."""
    return pretty(document())


def pretty(schema: Schema) -> str:
    """A schema as it is checked in."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def schema_documents() -> dict[str, Schema]:
    """The JSON Schemas of what clients read, by file name."""
    kinds = {"session": Session, "frames": StreamFrame, "events": AuditEvent}
    return {f"{name}.schema.json": _standalone(kind) for name, kind in kinds.items()}


def _standalone(kind: Any) -> Schema:
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | TypeAdapter(kind).json_schema(mode="serialization")


Named = Mapping[tuple[str, JsonSchemaMode], Schema]


def _schemas() -> tuple[Named, Schema]:
    results: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (operation.name, "serialization", TypeAdapter(operation.result)) for operation in OPERATIONS
    ]
    bodies: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (operation.name, "validation", TypeAdapter(operation.body)) for operation in OPERATIONS if operation.body
    ]
    problem: tuple[str, JsonSchemaMode, TypeAdapter[Any]] = ("problem", "serialization", TypeAdapter(Problem))
    named, definitions = TypeAdapter.json_schemas([*results, *bodies, problem], ref_template=_REF)
    schemas: Schema = definitions["$defs"]
    limits = schemas[RequestedLimits.__name__]
    return named, {**schemas, RequestedLimits.__name__: _bounded(limits, Ceiling())}


def _bounded(limits: Schema, ceiling: Ceiling) -> Schema:
    """The schema of the limits with what the wire types do not know: the default, the least and the most of each."""
    properties = dict(limits["properties"])
    for name, least in FLOOR:
        field = properties[wire_name(name)]
        number = field["anyOf"][0] | {"minimum": least, "maximum": getattr(ceiling.most, name)}
        bounds = {"anyOf": [number, *field["anyOf"][1:]], "default": getattr(ceiling.default, name)}
        properties[wire_name(name)] = field | bounds
    return limits | {"properties": properties}


def _paths(named: Named) -> Schema:
    paths: Schema = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, named)
    return paths


def _operation(operation: Operation, named: Named) -> Schema:
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        **_description(operation),
        **_security(operation),
        "parameters": _parameters(operation),
        **_body(operation, named),
        "responses": {**_successes(operation, named), **_problems(operation, named)},
    }


def _description(operation: Operation) -> Schema:
    scope = () if operation.public else (f"Scope: {f'`{operation.scope}`' if operation.scope else 'any'}.",)
    # On purpose: `curl -d` says that it sends a form.
    body = ("The body is read as JSON whatever its `Content-Type` says.",) if operation.body is not None else ()
    return {"description": " ".join((*scope, *body))} if scope or body else {}


def _security(operation: Operation) -> Schema:
    if operation.public:
        return {"security": []}
    return {"x-scope": operation.scope or "any", "security": [{"bearer": []}]}


def _parameters(operation: Operation) -> list[Schema]:
    path = [_parameter(name, "path", _PATH[name], required=True) for name in _in_path(operation)]
    query = [_parameter(name, "query", _PARAMETERS[name]) for name in operation.query]
    return [*path, *query, *_header_parameters(operation)]


def _in_path(operation: Operation) -> list[str]:
    return re.findall(r"\{(\w+)\}", operation.path)


def _header_parameters(operation: Operation) -> list[Schema]:
    if operation is CREATE_SESSION:
        text = f"`wait=N` holds the answer until the session is terminal, at most N (0 to {MAX_WAIT_SECONDS}) seconds."
        return [_parameter("Prefer", "header", {"description": text, "schema": {"type": "string"}})]
    if operation.streams:
        text = "Resume behind the event with this id."
        return [_parameter("Last-Event-ID", "header", {"description": text, "schema": {"type": "string"}})]
    return []


def _parameter(name: str, place: str, facts: Schema, *, required: bool = False) -> Schema:
    return {"name": name, "in": place, "required": required, **facts}


def _body(operation: Operation, named: Named) -> Schema:
    if operation.body is None:
        return {}
    schema = named[(operation.name, "validation")]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _successes(operation: Operation, named: Named) -> Schema:
    made = {str(operation.status): _success(operation, named)}
    if operation.replaced is None:
        return made
    replaced = _success(operation, named) | {"description": "It was there, and is replaced."}
    return {str(operation.replaced): replaced, **made}


def _success(operation: Operation, named: Named) -> Schema:
    schema = named[(operation.name, "serialization")]
    if operation.streams:
        text = "Server-sent events; the `data` of each is a frame, its `id` a place to resume at. Closes after `end`."
        return {"description": text, "content": {"text/event-stream": {"schema": schema}}}
    headers = _headers(_ANSWER_HEADERS.get(operation.name, {}))
    return {"description": operation.summary, **headers, "content": {operation.media: {"schema": schema}}}


def _problems(operation: Operation, named: Named) -> Schema:
    guarded = () if operation.public else _GUARDED if operation.scope else (InvalidRequest, Unauthenticated)
    missing = (NotFound,) if _in_path(operation) and operation.replaced is None else ()
    kinds = (*guarded, *missing, *_OWN.get(operation.name, ()), *_EVERYWHERE)
    content = {MEDIA_TYPE: {"schema": named[("problem", "serialization")]}}
    return {
        str(int(status)): {
            "description": f"`{kind.code}`: {kind().detail}",
            **_headers(_PROBLEM_HEADERS.get(status, {})),
            "content": content,
        }
        for status, kind in sorted(((STATUS[kind.code], kind) for kind in kinds), key=lambda pair: pair[0])
    }


def _headers(meanings: Mapping[str, str]) -> Schema:
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in meanings.items()}
    return {"headers": described} if described else {}


def main() -> None:
    """Print the document."""
    print(rendered(), end="")


if __name__ == "__main__":
    main()
