"""The OpenAPI document, drawn from the table of operations and the wire types."""

import json
import re
from collections.abc import Mapping, Sequence
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
    KeyReused,
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
    CHANGE_PASSWORD,
    CREATE_INVITATION,
    CREATE_KEY,
    CREATE_ORG,
    CREATE_SESSION,
    GET_FILE,
    GET_RESULT,
    LOGIN,
    LOGOUT,
    OPERATIONS,
    OPERATOR_RESET_PASSWORD,
    PUT_BINDING,
    REFRESH_TOKEN,
    REMOVE_MEMBER,
    RESET_PASSWORD,
    ROTATE_WEBHOOK_SECRET,
    SWITCH_ORG,
    Operation,
)
from enclave.contracts.policy import RequestedLimits
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.webhooks import WebhookMessage
from enclave.contracts.wire import SESSION_ID, wire_name
from enclave.core.claim import HEADER
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
    CREATE_SESSION.name: (KeyReused, PolicyUnenforceable, QuotaExceeded),
    GET_RESULT.name: (Conflict,),
    GET_FILE.name: (Conflict,),
    PUT_BINDING.name: (Conflict,),
    CREATE_KEY.name: (Conflict,),
    CHANGE_MEMBER.name: (Conflict,),
    REMOVE_MEMBER.name: (Conflict,),
    CREATE_INVITATION.name: (Conflict,),
    ROTATE_WEBHOOK_SECRET.name: (Conflict,),
    ACCEPT_INVITATION.name: (*_SIGNS_IN, Conflict),
    LOGIN.name: (*_SIGNS_IN, Forbidden),
    REFRESH_TOKEN.name: (InvalidRequest, Unauthenticated),
    LOGOUT.name: (InvalidRequest,),
    CREATE_ORG.name: (Conflict,),
    SWITCH_ORG.name: (InvalidRequest, Unauthenticated, Forbidden),
    CHANGE_PASSWORD.name: (Forbidden, Conflict, QuotaExceeded),
    RESET_PASSWORD.name: _SIGNS_IN,
    OPERATOR_RESET_PASSWORD.name: (NotFound,),
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
    "session": {"description": "Only those of this session.", "schema": {"type": "string", "pattern": SESSION_ID}},
}


_PATH: Final[Mapping[str, Schema]] = {
    "id": {"schema": {"type": "string"}},
    "name": {"schema": {"type": "string", "pattern": BINDING_NAME}},
    "path": {"schema": {"type": "string"}},
}

_ANSWER_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    CREATE_SESSION.name: {
        "Location": "The session's path.",
        "Idempotent-Replayed": "`true`, if an earlier request with the same key made the session.",
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


def document(operations: Sequence[Operation] = OPERATIONS) -> Schema:
    """The whole interface as an OpenAPI 3.1 document, or some operations of it."""
    named, schemas = _schemas(operations)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Enclave",
            "version": "1",
            "description": "Runs code nobody has reviewed, and tells everything that happened.",
        },
        "servers": [{"url": "/"}],
        "paths": _paths(operations, named),
        "webhooks": {"session": {"post": _webhook(named)}},
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
    kinds = {"session": Session, "frames": StreamFrame, "events": AuditEvent, "webhook": WebhookMessage}
    return {f"{name}.schema.json": _standalone(kind) for name, kind in kinds.items()}


def _standalone(kind: Any) -> Schema:
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | TypeAdapter(kind).json_schema(mode="serialization")


Named = Mapping[tuple[str, JsonSchemaMode], Schema]


def _schemas(operations: Sequence[Operation]) -> tuple[Named, Schema]:
    results: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (operation.name, "serialization", TypeAdapter(operation.result)) for operation in operations
    ]
    bodies: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (operation.name, "validation", TypeAdapter(operation.body)) for operation in operations if operation.body
    ]
    others: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        ("problem", "serialization", TypeAdapter(Problem)),
        ("webhook", "serialization", TypeAdapter(WebhookMessage)),
    ]
    named, definitions = TypeAdapter.json_schemas([*results, *bodies, *others], ref_template=_REF)
    schemas: Schema = definitions["$defs"]
    if limits := schemas.get(RequestedLimits.__name__):
        schemas[RequestedLimits.__name__] = _bounded(limits, Ceiling())
    return named, schemas


def _bounded(limits: Schema, ceiling: Ceiling) -> Schema:
    """The schema of the limits with what the wire types do not know: the default, the least and the most of each."""
    properties = dict(limits["properties"])
    for name, least in FLOOR:
        field = properties[wire_name(name)]
        number = field["anyOf"][0] | {"minimum": least, "maximum": getattr(ceiling.most, name)}
        bounds = {"anyOf": [number, *field["anyOf"][1:]], "default": getattr(ceiling.default, name)}
        properties[wire_name(name)] = field | bounds
    return limits | {"properties": properties}


def _webhook(named: Named) -> Schema:
    facts = {
        "webhook-id": "The message's id: the same however often it is sent.",
        "webhook-timestamp": "When this attempt was made, in seconds since the epoch.",
        "webhook-signature": "`v1,` and the HMAC-SHA256 in base64; several while a secret is rotated.",
    }
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in facts.items()}
    return {
        "summary": "What a session's `webhookUrl` is sent when the session is over, by Standard Webhooks.",
        "security": [],
        "parameters": [_parameter(name, "header", fact, required=True) for name, fact in described.items()],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": named[("webhook", "serialization")]}},
        },
        "responses": {
            "2XX": {"description": "It was taken. Anything else is tried again for a day."},
            "410": {"description": "No more of it is wanted."},
        },
    }


def _paths(operations: Sequence[Operation], named: Named) -> Schema:
    paths: Schema = {}
    for operation in operations:
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
    asked = "the operator's credential" if operation.operator else f"`{operation.scope}`" if operation.scope else "any"
    scope = () if operation.public else (f"Scope: {asked}.",)
    # On purpose: `curl -d` says that it sends a form.
    body = ("The body is read as JSON whatever its `Content-Type` says.",) if operation.body is not None else ()
    return {"description": " ".join((*scope, *body))} if scope or body else {}


def _security(operation: Operation) -> Schema:
    if operation.public:
        return {"security": []}
    scope = "operator" if operation.operator else operation.scope or "any"
    return {"x-scope": scope, "security": [{"bearer": []}]}


def _parameters(operation: Operation) -> list[Schema]:
    path = [_parameter(name, "path", _PATH[name], required=True) for name in _in_path(operation)]
    query = [_parameter(name, "query", _PARAMETERS[name]) for name in operation.query]
    return [*path, *query, *_header_parameters(operation)]


def _in_path(operation: Operation) -> list[str]:
    return re.findall(r"\{(\w+)\}", operation.path)


def _header_parameters(operation: Operation) -> list[Schema]:
    if operation is CREATE_SESSION:
        text = f"`wait=N` holds the answer until the session is terminal, at most N (0 to {MAX_WAIT_SECONDS}) seconds."
        key = {
            "description": "Makes the request safe to repeat: for 24 hours the same key and body get the same session.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
        }
        prefer = _parameter("Prefer", "header", {"description": text, "schema": {"type": "string"}})
        return [prefer, _parameter(HEADER, "header", key)]
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
    guarded = () if operation.public else _GUARDED if _refuses(operation) else (InvalidRequest, Unauthenticated)
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


def _refuses(operation: Operation) -> bool:
    return operation.operator or operation.scope is not None


def _headers(meanings: Mapping[str, str]) -> Schema:
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in meanings.items()}
    return {"headers": described} if described else {}


def main() -> None:
    """Print the document."""
    print(rendered(), end="")


if __name__ == "__main__":
    main()
