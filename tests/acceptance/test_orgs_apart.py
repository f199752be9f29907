"""Two orgs on one server: what is another's is, byte for byte, as what there is not."""

from collections.abc import Iterator
from typing import Any

import pytest

from enclave.contracts.identity import Role
from enclave.contracts.members import ChangeMember
from enclave.contracts.operations import OPERATIONS, Operation
from enclave.core.cursor import key_cursor
from tests.acceptance.installation import PASSWORD, Installation, Org, Reply, installation, missing

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

BODIES: dict[object, object] = {ChangeMember: {"role": "auditor"}}
# What is put under a name is one's own, whoever else has one of that name.
NAMING = [one for one in OPERATIONS if "{" in one.path and not one.replaced]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("home")) as made:
        yield made


def seen(site: Installation, org: Org) -> list[Any]:
    """All that an owner can see of their org, but when keys were used, and what became of webhooks meanwhile."""
    lists = ("/sessions", "/keys", "/members", "/bindings", "/audit")
    pages = [site.client.get("GET", f"{path}?limit=200", credential=org.tokens[Role.OWNER]) for path in lists]
    items = [[item for item in page["items"] if not in_its_own_time(item)] for page in pages]
    return [[{**item, "lastUsedAt": None} for item in page] for page in items]


def in_its_own_time(item: dict[str, Any]) -> bool:
    """Whether it is an event of what the platform does about webhooks, behind everybody's back."""
    return str(item.get("type", "")).startswith("webhook_") and item["actor"] == "platform"


def ask(site: Installation, operation: Operation, named: dict[str, str], credential: str | None) -> list[Reply]:
    """The answers to an operation: with a sound body, with one that is none, and without what it says."""
    path, body = operation.path.format(**named), BODIES.get(operation.body, {}) if operation.body else None
    requests: list[tuple[str, Any]] = [(operation.method, body)]
    requests += [("HEAD", None)] if operation.method == "GET" else []
    requests += [(operation.method, b"{")] if operation.body else []
    return [site.client.ask(method, path, sent, credential) for method, sent in requests]


@pytest.mark.parametrize("operation", NAMING, ids=lambda one: one.name)
def test_what_is_anothers_is_as_what_there_is_not(site: Installation, operation: Operation) -> None:
    theirs = site.made(operation, site.b)
    nobodys = missing(theirs)
    before = seen(site, site.b)
    if operation.method == "GET" and not operation.operator:
        assert site.client.ask("GET", operation.path.format(**theirs), credential=site.b.owner).status == 200

    for caller, credential in site.callers().items():
        if operation.operator and caller == "operator":
            continue  # every org is theirs
        answers = ask(site, operation, theirs, credential)
        assert answers == ask(site, operation, nobodys, credential), caller
        assert {answer.status for answer in answers} <= {400, 401, 403, 404, 405}, caller

    assert seen(site, site.b) == before


@pytest.mark.parametrize("role", list(Role))
def test_a_sign_in_to_anothers_org_is_as_one_to_none(site: Installation, role: Role) -> None:
    def login(org_id: str) -> Reply:
        body = {"email": site.a.emails[role], "password": PASSWORD, "orgId": org_id}
        return site.client.ask("POST", "/login", body)

    assert login(site.a.id).status == 200
    assert login(site.b.id) == login("org_" + "0" * 16)


def test_a_page_goes_on_behind_anothers_key_as_behind_none(site: Installation) -> None:
    theirs = site.client.get("GET", "/keys?limit=1", credential=site.b.owner)["items"][0]["id"]
    pages = [
        site.client.ask("GET", f"/keys?cursor={key_cursor(one)}", credential=site.a.tokens[Role.OWNER])
        for one in (theirs, "0" * 16)
    ]

    assert pages[0] == pages[1]
    assert pages[0].status == 200


def test_an_unknown_user_is_refused_as_a_wrong_password_is(site: Installation) -> None:
    known = [site.a.emails[role] for role in Role]
    emails = [*known, "owner@localhost.invalid", "nobody@example.org"]
    refused = [site.client.ask("POST", "/login", {"email": one, "password": "wrong"}) for one in emails]

    assert {one.status for one in refused} == {401}
    assert len(set(refused)) == 1
