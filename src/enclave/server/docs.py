"""The reference as one page, rendered here from the OpenAPI document: no script, no request to anyone else."""

import base64
import hashlib
import re
from html import escape
from typing import Any, Final

from enclave.contracts.operations import CREATE_KEY, CREATE_SESSION, PUT_BINDING
from enclave.server.openapi import Schema

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 3rem 0 .25rem; font-size: 1.1rem; border-top: 1px solid #8884; padding-top: 1rem; }
code, pre { font: .9em/1.45 ui-monospace, monospace; }
pre { background: #8881; padding: .75rem 1rem; border-radius: .4rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8883; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700; }
.scope { float: right; opacity: .7; font-weight: 400; }
"""

_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; frame-ancestors 'none'"
"""Allows the page's own style and nothing else."""

_BOUNDS: Final = ("minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "maxProperties", "pattern")

_BODY: Final = " \\\n  -H 'Content-Type: application/json' -d @body.json"
_EXAMPLES: Final = {
    CREATE_SESSION.name: " \\\n  -H 'Prefer: wait=30' -H 'Content-Type: application/json' \\\n"
    '  -d \'{"code": "print(6 * 7)"}\'',
    CREATE_KEY.name: " \\\n  -H 'Content-Type: application/json' \\\n"
    '  -d \'{"name": "ci", "scopes": ["sessions:read"]}\'',
    # From a file: what stands on a command line is seen by every process of the machine.
    PUT_BINDING.name: " \\\n  -H 'Content-Type: application/json' -d @binding.json",
}
"""How a body is sent."""


def page(api: Schema) -> str:
    """The page of an OpenAPI document of ours."""
    body = "".join(
        _operation(method, path, operation, api)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Enclave API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>Enclave API</h1><p>{escape(api['info']['description'])} The same as a machine reads it: "
        f'<a href="/openapi.json">/openapi.json</a>.</p>{body}</body></html>'
    )


def _operation(method: str, path: str, operation: Schema, api: Schema) -> str:
    scope = escape(operation.get("x-scope", "public"))
    return (
        f'<h2 id="{operation["operationId"]}"><span class="method">{method.upper()}</span> <code>{escape(path)}</code>'
        f'<span class="scope">{scope}</span></h2><p>{_prose(operation["summary"])}</p>'
        f"{_parameters(operation)}{_body(operation, api)}<pre>{escape(_curl(method, path, operation))}</pre>"
        f"{_responses(operation)}"
    )


def _parameters(operation: Schema) -> str:
    rows = [
        (f"{one['name']} ({one['in']})", _kind(one["schema"], {}), one.get("description", ""))
        for one in operation["parameters"]
    ]
    return _table(("Parameter", "Type", "Meaning"), rows)


def _body(operation: Schema, api: Schema) -> str:
    if "requestBody" not in operation:
        return ""
    schemas = api["components"]["schemas"]
    fields = _fields(operation["requestBody"]["content"]["application/json"]["schema"], schemas, "")
    return _table(("Field", "Type", "Default"), fields)


def _fields(schema: Schema, schemas: Schema, prefix: str) -> list[tuple[str, str, str]]:
    whole = _resolved(schema, schemas)
    rows: list[tuple[str, str, str]] = []
    for name, field in whole.get("properties", {}).items():
        default = "required" if name in whole.get("required", ()) else _default(field)
        rows.append((prefix + name, _kind(field, schemas), default))
        if "properties" in _resolved(field, schemas):
            rows += _fields(field, schemas, f"{prefix}{name}.")
    return rows


def _default(field: Schema) -> str:
    value = field.get("default")
    return "" if value is None or isinstance(value, dict) else str(value)


def _kind(field: Schema, schemas: Schema) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(one, schemas) for one in field["anyOf"])
    whole = _resolved(field, schemas)
    name = " | ".join(map(str, whole["enum"])) if "enum" in whole else str(whole.get("type", "any"))
    if "items" in whole:
        name += f" of {_kind(whole['items'], schemas)}"
    bounds = ", ".join(f"{bound} {whole[bound]}" for bound in _BOUNDS if bound in whole)
    return f"{name} ({bounds})" if bounds else name


def _resolved(field: Schema, schemas: Schema) -> Schema:
    reference = field.get("$ref")
    found: Any = schemas.get(reference.rsplit("/", 1)[-1], {}) if reference else field
    return dict(found)


def _curl(method: str, path: str, operation: Schema) -> str:
    verb = "" if method == "get" else f" -X {method.upper()}"
    key = " \\\n  -H 'Authorization: Bearer '\"$ENCLAVE_API_KEY\"" if operation["security"] else ""
    stream = " -N" if path.endswith("/stream") else ""
    body = _EXAMPLES.get(operation["operationId"], _BODY if "requestBody" in operation else "")
    place = path.replace("{id}", "$ID").replace("{name}", "$NAME").replace("{path}", "$FILE")
    return f"curl{stream}{verb} http://127.0.0.1:8088{place}{key}{body}"


def _responses(operation: Schema) -> str:
    rows = [(status, ", ".join(one["content"]), one["description"]) for status, one in operation["responses"].items()]
    return _table(("Status", "Type", "Meaning"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    titles = "".join(f"<th>{escape(one)}</th>" for one in head)
    lines = "".join("<tr>" + "".join(f"<td>{_prose(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{lines}</table>"


def _prose(text: str) -> str:
    """Text as HTML, with what stands in backquotes as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
