"""Guessing passwords from outside: from one address, from many, and what that does to others."""

import re
from collections.abc import Iterator

import pytest

from enclave.contracts.identity import Role
from tests.acceptance.installation import PASSWORD, Client, Installation, Reply, installation

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

MAX_OF_PAIR, MAX_OF_USER = 5, 50
"""What may fail in five minutes: from an address to a user, and to a user from strange addresses."""


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("home")) as made:
        yield made


def login(site: Installation, email: str, address: str, password: str = "wrong") -> Reply:
    return Client(site.client.netloc, address).ask("POST", "/login", {"email": email, "password": password})


def untimed(reply: Reply) -> tuple[int, set[tuple[str, str]], bytes]:
    """But for how long to wait, which is another at each moment."""
    headers = {pair for pair in reply.headers if pair[0].lower() not in ("retry-after", "content-length")}
    return reply.status, headers, re.sub(rb'"retryAfter":[0-9.]+', b"", reply.body)


def test_nobody_is_locked_out_of_where_they_signed_in(site: Installation) -> None:
    victim, home = site.a.emails[Role.DEVELOPER], "127.0.0.9"
    assert login(site, victim, home, PASSWORD).status == 200

    one = [login(site, victim, "127.0.1.1").status for _ in range(MAX_OF_PAIR + 1)]
    assert one == [401] * MAX_OF_PAIR + [429]
    assert login(site, victim, "127.0.3.1", PASSWORD).status == 200

    many = [login(site, victim, f"127.0.2.{1 + number // MAX_OF_PAIR}").status for number in range(MAX_OF_USER)]
    assert many.count(429) > 0
    assert login(site, victim, home, PASSWORD).status == 200
    assert login(site, victim, "127.0.3.2", PASSWORD).status == 429


def test_a_user_who_is_refused_for_guesses_is_as_one_whom_there_is_not(site: Installation) -> None:
    known, unknown = (
        [untimed(login(site, email, address)) for _ in range(MAX_OF_PAIR + 2)]
        for email, address in ((site.a.emails[Role.VIEWER], "127.0.4.1"), ("nobody@example.org", "127.0.4.2"))
    )

    assert known == unknown
    assert [status for status, _, _ in known] == [401] * MAX_OF_PAIR + [429] * 2
