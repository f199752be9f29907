"""Two who do at once what only one may: threads of their own, against a server in a process of its own."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from secrets import token_hex
from threading import Barrier
from typing import Any

import pytest

from enclave.contracts.identity import Role
from tests.acceptance.installation import PASSWORD, Client, Installation, Org, Reply, installation

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

ROUNDS = range(6)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def client(site: Installation) -> Client:
    return site.client


def at_once(*asks: Callable[[], Reply]) -> list[Reply]:
    """The answers to all of them, started together."""
    gate = Barrier(len(asks))

    def ask(one: Callable[[], Reply]) -> Reply:
        gate.wait()
        return one()

    with ThreadPoolExecutor(len(asks)) as threads:
        return list(threads.map(ask, asks))


def member(site: Installation, role: Role) -> tuple[str, str]:
    """A new member of the first org: their id, and their token."""
    token = site.join(site.a, role, f"{token_hex(8)}@example.org")["token"]
    return site.client.get("GET", "/whoami", credential=token)["userId"], token


def of_type(site: Installation, kind: str) -> list[Any]:
    """The events of a kind in the first org's trail, read to its end."""
    found, more = [], ""
    while more is not None:
        path = f"/audit?limit=200{f'&cursor={more}' if more else ''}"
        page = site.client.get("GET", path, credential=site.a.owner)
        found += [event for event in page["items"] if event["type"] == kind]
        more = page["nextCursor"]
    return found


def statuses(replies: Sequence[Reply]) -> Counter[int]:
    return Counter(reply.status for reply in replies)


Owner = tuple[str, str]
"""The member's id, and what they call with."""


def owners(site: Installation, caller: Owner) -> list[str]:
    members = site.client.get("GET", "/members?limit=200", credential=caller[1])["items"]
    return [one["id"] for one in members if one["role"] == "owner"]


def last_two(site: Installation) -> tuple[Owner, Owner]:
    """The owners of the second org, of which there are two."""
    token = site.b.tokens[Role.OWNER]
    mine = site.client.get("GET", "/whoami", credential=token)["userId"]
    (other,) = set(owners(site, (mine, token))) - {mine}
    return (mine, token), (other, site.b.owner)


def leave(site: Installation, how: str, owner: Owner, whom: Owner) -> Reply:
    body = {"role": "viewer"} if how == "PUT" else None
    return site.client.ask(how, f"/members/{whom[0]}", body, owner[1])


def test_of_the_last_two_owners_one_stays(site: Installation) -> None:
    one, other = last_two(site)
    for _ in ROUNDS:
        for how, themselves in product(("PUT", "DELETE"), (True, False)):
            targets = (one, other) if themselves else (other, one)
            pairs = list(zip((one, other), targets, strict=True))
            replies = at_once(*(partial(leave, site, how, *pair) for pair in pairs))

            assert statuses(replies)[200] == 1, replies
            assert {reply.status for reply in replies} <= {200, 401, 403, 409}
            gone = next(whom for (_, whom), reply in zip(pairs, replies, strict=True) if reply.status == 200)
            one = other if gone == one else one
            assert owners(site, one) == [one[0]]
            other = another(site, one)


def another(site: Installation, owner: Owner) -> Owner:
    """A further owner, asked in by this one."""
    token = site.join(Org(site.b.id, owner[1]), Role.OWNER, f"{token_hex(8)}@example.org")["token"]
    return site.client.get("GET", "/whoami", credential=token)["userId"], token


@pytest.mark.parametrize("turn", ROUNDS)
def test_an_invitation_that_is_accepted_at_once_lets_one_in(site: Installation, client: Client, turn: int) -> None:
    email = f"{token_hex(8)}@example.org"
    code = client.get("POST", "/invitations", {"email": email, "role": "viewer"}, site.a.owner)["code"]

    def accept() -> Reply:
        return client.ask("POST", "/invitations/accept", {"code": code, "password": PASSWORD})

    replies = at_once(accept, accept, accept)

    assert statuses(replies) == {200: 1, 401: 2}
    members = client.get("GET", "/members?limit=200", credential=site.a.owner)["items"]
    assert [one["email"] for one in members].count(email) == 1


@pytest.mark.parametrize("turn", ROUNDS)
def test_a_refresh_token_that_is_used_at_once_passes_once(site: Installation, client: Client, turn: int) -> None:
    token = site.join(site.a, Role.VIEWER, f"{token_hex(8)}@example.org")["refreshToken"]
    before = len(of_type(site, "refresh_reused"))

    def refresh(given: str = token) -> Reply:
        return client.ask("POST", "/token/refresh", {"refreshToken": given})

    replies = at_once(refresh, refresh, refresh)

    assert statuses(replies) == {200: 1, 401: 2}
    (passed,) = [reply for reply in replies if reply.status == 200]
    assert refresh(passed.json["refreshToken"]).status == 401
    assert len(of_type(site, "refresh_reused")) == before + 1


@pytest.mark.parametrize("turn", ROUNDS)
def test_a_key_that_is_revoked_as_it_makes_another_leaves_what_it_made_in_the_trail(
    site: Installation, client: Client, turn: int
) -> None:
    maker = client.get("POST", "/keys", {"name": "maker", "role": "admin"}, site.a.owner)

    made, revoked = at_once(
        lambda: client.ask("POST", "/keys", {"name": "made"}, maker["apiKey"]),
        lambda: client.ask("DELETE", f"/keys/{maker['id']}", credential=site.a.owner),
    )

    assert revoked.status == 200
    assert made.status in (201, 401, 403)
    assert client.ask("GET", "/whoami", credential=maker["apiKey"]).status == 401
    kinds = [
        event["type"]
        for kind in ("key_created", "key_revoked")
        for event in of_type(site, kind)
        if maker["id"] in (event["actor"], event["keyId"])
    ]
    assert kinds.count("key_created") == 1 + (made.status == 201)
    assert kinds.count("key_revoked") == 1


@pytest.mark.parametrize("turn", ROUNDS)
def test_one_who_is_removed_as_they_make_keys_keeps_none(site: Installation, client: Client, turn: int) -> None:
    user_id, token = member(site, Role.ADMIN)

    def make() -> Reply:
        return client.ask("POST", "/keys", {"name": "left"}, token)

    *made, removed = at_once(
        make, make, make, lambda: client.ask("DELETE", f"/members/{user_id}", credential=site.a.owner)
    )

    assert removed.status == 200
    assert set(statuses(made)) <= {201, 401, 403}
    for key in [reply.json["apiKey"] for reply in made if reply.status == 201]:
        assert client.ask("GET", "/whoami", credential=key).status == 401
    assert make().status in (401, 403)


def test_a_change_of_role_and_a_key_of_the_old_one_do_not_pass_each_other(site: Installation, client: Client) -> None:
    for _ in ROUNDS:
        user_id, token = member(site, Role.ADMIN)
        made, changed = at_once(
            partial(client.ask, "POST", "/keys", {"name": "k"}, token),
            partial(client.ask, "PUT", f"/members/{user_id}", {"role": "viewer"}, site.a.owner),
        )
        assert changed.status == 200
        if made.status == 201:
            me = client.get("GET", "/whoami", credential=made.json["apiKey"])
            assert me["role"] == "viewer"
            assert "keys:write" not in me["scopes"]
        else:
            assert made.status == 403
