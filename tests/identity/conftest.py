"""An authority beside a clock that the test moves and an audit trail that fails when it says so."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from enclave.contracts.identity import Principal
from enclave.core.access import ROLES
from enclave.identity.service import Identity
from tests.identity.test_authority import Clock
from tests.identity.test_keys import Trail


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trail() -> Trail:
    return Trail()


@pytest.fixture
def identity(tmp_path: Path, trail: Trail, clock: Clock) -> Iterator[Identity]:
    with closing(Identity.open(tmp_path, trail, now=clock)) as identity:
        yield identity


@pytest.fixture
def owner(identity: Identity) -> Principal:
    return founder(identity, "o@example.org")


def founder(identity: Identity, email: str) -> Principal:
    """The owner of an org of their own."""
    member = identity.authority.owner(email)
    return Principal(user_id=member.user_id, org_id=member.org_id, role=member.role, scopes=ROLES[member.role])
