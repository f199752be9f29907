"""What the OpenAPI document and the page drawn from it say."""

from typing import Any

import pytest

from enclave.contracts.operations import OPERATIONS
from enclave.contracts.wire import wire_name
from enclave.core.policy import FLOOR, Ceiling
from enclave.server.docs import page
from enclave.server.openapi import document

API = document()


def operations() -> dict[str, dict[str, Any]]:
    return {one["operationId"]: one for methods in API["paths"].values() for one in methods.values()}


@pytest.mark.parametrize("name", list(type(FLOOR).model_fields))
def test_a_limit_says_its_default_its_least_and_its_most(name: str) -> None:
    field = API["components"]["schemas"]["RequestedLimits"]["properties"][wire_name(name)]
    number, null = field["anyOf"]
    least, most, default = (getattr(given, name) for given in (FLOOR, Ceiling().most, Ceiling().default))

    assert (number["minimum"], number["maximum"], field["default"]) == (least, most, default)
    assert null == {"type": "null"}
    assert f"minimum {least}, maximum {most}) or null</td><td>{default}</td>" in page(API)


def test_headers_are_told_where_they_are_sent() -> None:
    created = {"Location", "Preference-Applied", "Idempotent-Replayed"}
    assert set(operations()["create_session"]["responses"]["201"]["headers"]) == created
    assert set(operations()["get_file"]["responses"]["200"]["headers"]) == {"ETag", "Content-Disposition"}
    told = {"401": {"WWW-Authenticate"}, "429": {"Retry-After"}, "503": {"Retry-After"}}
    for one in operations().values():
        for status, answer in one["responses"].items():
            assert status in ("200", "201") or set(answer.get("headers", ())) == told.get(status, set())


def test_an_operation_with_a_body_says_that_its_content_type_does_not_matter() -> None:
    saying = {name for name, one in operations().items() if "Content-Type" in one.get("description", "")}

    assert saying == {operation.name for operation in OPERATIONS if operation.body is not None}


def test_the_list_says_how_labels_are_asked_for() -> None:
    assert "`label=name:value`" in operations()["list_sessions"]["summary"]


def test_labels_say_which_names_are_refused() -> None:
    labels = API["components"]["schemas"]["CreateSessionRequest"]["properties"]["labels"]
    (pattern,) = labels["patternProperties"]

    assert labels["propertyNames"] == {"minLength": 1, "maxLength": 64, "pattern": pattern}
