"""The wire as checked in: whoever changes it sees what changed."""

import os
from pathlib import Path

import pytest

from enclave.server.openapi import pretty, rendered, schema_documents

CONTRACTS = Path(__file__).parents[2] / "contracts"
GENERATED = {
    "openapi.json": rendered(),
    **{name: pretty(schema) for name, schema in schema_documents().items()},
}


@pytest.mark.parametrize("name", GENERATED)
def test_the_contract_is_as_checked_in(name: str) -> None:
    """Run with UPDATE_SNAPSHOTS=1 to accept what changed."""
    if os.environ.get("UPDATE_SNAPSHOTS"):
        CONTRACTS.mkdir(exist_ok=True)
        (CONTRACTS / name).write_text(GENERATED[name])
    assert (CONTRACTS / name).read_text() == GENERATED[name]
