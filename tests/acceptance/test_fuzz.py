"""Requests made up from the OpenAPI document, sound and unsound, by everybody who may call and everybody who may not.

`ENCLAVE_FUZZ_EXAMPLES` asks for more of each operation than are made in the short run.
"""

import json
import os
from collections.abc import Iterator
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from schemathesis import Case, CheckFunction, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from enclave.contracts.identity import Role
from enclave.contracts.operations import OPERATIONS, Operation
from enclave.server.openapi import document, schema_documents
from tests.acceptance.installation import Installation, installation

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(3600)]

EXAMPLES: Final = int(os.environ.get("ENCLAVE_FUZZ_EXAMPLES", "12"))
SCHEMA: Final = schemathesis.openapi.from_dict(document())
FRAMES: Final = Draft202012Validator(schema_documents()["frames.schema.json"])
CHECKS: Final[list[CheckFunction]] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# Where nothing is asked for, nothing can be wrong.
TRIED: Final = [
    (one, mode)
    for one in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or one.body or one.query or "{" in one.path
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("home")) as made:
        yield made


def credentials(site: Installation) -> dict[str, str | None]:
    return {**site.callers(), "someone of another org": site.b.tokens[Role.OWNER], "a stranger": "ek_x"}


def check_frames(stream: str) -> None:
    frames = [json.loads(line.removeprefix("data:")) for line in stream.splitlines() if line.startswith("data:")]
    assert frames[-1]["kind"] == "end"
    for frame in frames:
        FRAMES.validate(frame)


@pytest.mark.parametrize(("operation", "mode"), TRIED, ids=[f"{one.name}-{mode.value}" for one, mode in TRIED])
def test_whatever_is_sent_gets_an_answer_that_is_described(
    site: Installation, operation: Operation, mode: GenerationMode
) -> None:
    described = SCHEMA[operation.path][operation.method]
    named = site.made(operation, site.a) if "{" in operation.path and not operation.replaced else {}
    callers = credentials(site)
    # Half of them by one who may.
    may = "operator" if operation.operator else "owner with a token"
    by = st.just(may) | st.sampled_from(sorted(callers))

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(described.as_strategy(generation_mode=mode), by, st.booleans())
    def examine(case: Case[Any], caller: str, there: bool) -> None:
        # With a name put in of something that there is, it may be sound after all.
        but: list[CheckFunction] = [negative_data_rejection] if there and named else []
        if there and named:
            case.path_parameters = dict(named)
        credential = callers[caller]
        case.headers.pop("Authorization", None)
        if credential is not None:
            case.headers["Authorization"] = f"Bearer {credential}"
        response = case.call(base_url=f"http://{site.client.netloc}", timeout=20)
        # What is in a stream the document says in words: this kind of schema has none for it.
        if operation.streams and response.status_code == 200:
            but.append(response_schema_conformance)
            check_frames(response.text)
        case.validate_response(response, checks=CHECKS, excluded_checks=but)

    examine()


@SCHEMA.parametrize()
@settings(max_examples=1, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_what_is_at_a_bound_gets_an_answer_that_is_described(case: Case[Any], site: Installation) -> None:
    """The least and the most of everything, and just beyond, and each thing left out."""
    case.headers["Authorization"] = f"Bearer {site.a.tokens[Role.OWNER]}"
    response = case.call(base_url=f"http://{site.client.netloc}", timeout=20)
    case.validate_response(response, checks=CHECKS)


def test_the_whole_of_the_document_is_tried() -> None:
    paths: dict[str, Any] = document()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}

    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
