"""Who passes, who does not, and that the difference tells nothing."""

import base64
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.contracts.errors import InvalidRequest, Unauthenticated, Unavailable
from enclave.contracts.identity import Principal, Role
from enclave.core.access import ROLES
from enclave.identity.apikey import ApiKey, new_api_key
from enclave.identity.authority import MAX_CREDENTIAL_CHARS, MAX_REMEMBERED, REMEMBER_SECONDS, EmbeddedIdentity
from enclave.identity.directory import Claim, KeyRecord, Member
from enclave.identity.service import Identity
from enclave.identity.token import TokenReader
from tests.identity.tokens import SECRET, issue_token, nowhere

PEPPER = b"pepper" * 8
MESSAGE = str(Unauthenticated())


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def identity(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedIdentity]:
    with closing(Identity.open(tmp_path / "home", nowhere, now=clock, jwt_secret=SECRET).authority) as opened:
        yield opened


@pytest.fixture
def owner(identity: EmbeddedIdentity) -> Member:
    return identity.owner("owner@localhost")


@pytest.fixture
def key(identity: EmbeddedIdentity, owner: Member) -> ApiKey:
    return identity.issue_key(owner)


def database(tmp_path: Path) -> sqlite3.Connection:
    return sqlite3.connect(tmp_path / "home" / "identity.db", isolation_level=None)


def refused(identity: EmbeddedIdentity, credential: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        identity.identify(credential)
    assert caught.value.__cause__ is None
    assert caught.value.errors == ()
    return caught.value.detail


def segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(header: object, claims: object, digest: str = "sha256", secret: str = SECRET) -> str:
    signing = f"{segment(header)}.{segment(claims)}"
    signature = hmac.digest(secret.encode(), signing.encode(), digest)
    return f"{signing}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


CLAIMS = {"sub": "user_1", "orgId": "org_a", "role": "owner", "exp": 4102444800}


@pytest.mark.anyio
async def test_a_key_is_its_member_under_an_id_of_its_own(
    identity: EmbeddedIdentity, owner: Member, key: ApiKey
) -> None:
    principal = await identity.authenticate(str(key))

    assert principal == Principal(user_id=key.id, org_id=owner.org_id, role=Role.OWNER, scopes=ROLES[Role.OWNER])


@pytest.mark.anyio
@pytest.mark.parametrize("role", list(Role))
async def test_a_token_is_who_it_says(identity: EmbeddedIdentity, role: Role) -> None:
    principal = await identity.authenticate(issue_token(sub="ada", orgId="org_z", role=role.value, email="a@b.c"))

    assert principal == Principal(user_id="ada", org_id="org_z", role=role, scopes=ROLES[role])


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "someone else"},
        {"aud": ["a", "b"]},
        {"exp": 4102444800.5},
        {"sub": "Zoë 👩‍🚀"},
        *({"sid": sid} for sid in (1, "", "\ud800", ["a"], "0" * 16)),
    ],
)
def test_a_valid_token_is_enough_by_itself(identity: EmbeddedIdentity, claims: dict[str, Any]) -> None:
    assert identity.identify(issue_token(**claims)).org_id == "org_a"


def test_a_token_made_by_hand_passes(identity: EmbeddedIdentity) -> None:
    """The forgeries below differ from this one in one thing each."""
    assert identity.identify(signed({"alg": "HS256", "typ": "JWT"}, CLAIMS)).user_id == "user_1"


FORGERIES = {
    "alg none": f"{segment({'alg': 'none'})}.{segment(CLAIMS)}.",
    "alg None": f"{segment({'alg': 'None'})}.{segment(CLAIMS)}.",
    "alg none, signed": signed({"alg": "none"}, CLAIMS),
    "no alg": signed({"typ": "JWT"}, CLAIMS),
    "alg is a list": signed({"alg": ["HS256"]}, CLAIMS),
    "HS512, signed": signed({"alg": "HS512"}, CLAIMS, "sha512"),
    "HS384, signed": signed({"alg": "HS384"}, CLAIMS, "sha384"),
    "RS256 in the header": signed({"alg": "RS256"}, CLAIMS),
    "HS512 in the header": signed({"alg": "HS512"}, CLAIMS),
    "unknown critical header": signed({"alg": "HS256", "crit": ["x"], "x": 1}, CLAIMS),
    "no signature": signed({"alg": "HS256"}, CLAIMS).rpartition(".")[0] + ".",
    "two segments": signed({"alg": "HS256"}, CLAIMS).rpartition(".")[0],
    "other secret": issue_token(secret=SECRET.upper()),
    "empty secret": signed({"alg": "HS256"}, CLAIMS, secret=""),
    "expired": issue_token(lifetime=timedelta(seconds=-1)),
    "no exp": issue_token(exp=None),
    "exp is text": issue_token(exp="tomorrow"),
    "exp is infinite": signed({"alg": "HS256"}, CLAIMS | {"exp": float("inf")}),
    "exp is a number in quotes": signed({"alg": "HS256"}, CLAIMS | {"exp": "4102444800"}),
    "exp is true": signed({"alg": "HS256"}, CLAIMS | {"exp": True}),
    "exp is a list": issue_token(exp=[1]),
    "not yet valid": issue_token(nbf=4102444800),
    "no sub": issue_token(sub=None),
    "empty sub": issue_token(sub=""),
    "no org": issue_token(orgId=None),
    "empty org": issue_token(orgId=""),
    "org is a number": issue_token(orgId=1),
    "a line break in org": issue_token(orgId="org_a\norg_b"),
    "an escape in sub": issue_token(sub="user\x1b[2J"),
    "a C1 control in sub": issue_token(sub="user\x9b"),
    "a null in sub": issue_token(sub="user\x00"),
    "no role": issue_token(role=None),
    "unknown role": issue_token(role="root"),
    "role is a list": issue_token(role=["owner"]),
    "claims are a list": signed({"alg": "HS256"}, [1]),
    "header is a list": signed([1], CLAIMS),
    "deep header": base64.urlsafe_b64encode(b"[" * 6000).decode() + "." + segment(CLAIMS) + ".",
    "1 MB": "a" * 1_000_000,
    "1 MB of a valid token": issue_token(pad="a" * 1_000_000),
    "long, like a key": "ek_" + "a" * 1_000_000,
    "empty": "",
    "dots": "..",
    "not ASCII": "ek_\u00e9",
    "lone surrogate": "\udc80",
    "unknown key": str(ApiKey("0" * 16, "A" * 43)),
    "key without secret": "ek_0123456789abcdef_",
}


@pytest.mark.parametrize("credential", FORGERIES.values(), ids=FORGERIES)
def test_whatever_is_wrong_gets_one_and_the_same_answer(identity: EmbeddedIdentity, credential: str) -> None:
    assert refused(identity, credential) == MESSAGE


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_garbage_is_refused_and_nothing_worse(garbage: str) -> None:
    identity = EmbeddedIdentity(Nobody(), TokenReader(SECRET.encode()), pepper=PEPPER, now=Clock())

    assert refused(identity, garbage) == MESSAGE


class Nobody:
    """A directory without members."""

    def owner(self, email: str) -> Member:
        raise NotImplementedError

    def add_key(self, record: KeyRecord) -> None:
        raise NotImplementedError

    def find_hash(self, key_id: str) -> tuple[bytes, str] | None:
        return None

    def find_key(self, key_id: str) -> KeyRecord | None:
        return None

    def revoke_key(self, key_id: str) -> None:
        raise NotImplementedError

    def standing(self, claim: Claim) -> Role | None:
        return claim.member.role

    def find_operator(self, key_id: str) -> bytes | None:
        return None

    def replace_operator(self, key_id: str, digest: bytes) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_the_right_id_with_a_wrong_secret_is_refused_like_no_key(identity: EmbeddedIdentity, key: ApiKey) -> None:
    wrong = ApiKey(key.id, new_api_key().secret)

    assert refused(identity, str(wrong)) == refused(identity, str(new_api_key())) == MESSAGE


@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_secret_costs_the_same_whether_its_id_is_known_or_not(
    identity: EmbeddedIdentity, key: ApiKey, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    compared: list[tuple[int, int]] = []
    genuine = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return genuine(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    refused(identity, str(ApiKey(key.id if known else "0" * 16, "A" * 43)))

    assert compared == [(32, 32)]


def test_a_secret_is_not_in_the_database(identity: EmbeddedIdentity, key: ApiKey, tmp_path: Path) -> None:
    content = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("identity.db*"))

    assert key.id.encode() in content
    assert key.secret.encode() not in content
    assert hashlib.sha256(key.secret.encode()).digest() not in content


def test_a_hash_is_worth_nothing_without_the_pepper(owner: Member, key: ApiKey, tmp_path: Path, clock: Clock) -> None:
    home = tmp_path / "home"
    (home / "secrets.json").unlink()
    with closing(Identity.open(home, nowhere, now=clock).authority) as identity:
        assert refused(identity, str(key)) == MESSAGE


@pytest.mark.parametrize("used_before", [True, False])
def test_a_revoked_key_is_refused_at_once(identity: EmbeddedIdentity, key: ApiKey, used_before: bool) -> None:
    if used_before:
        identity.identify(str(key))

    identity.revoke_key(key.id)

    assert refused(identity, str(key)) == MESSAGE


def test_revoking_one_key_leaves_the_others(identity: EmbeddedIdentity, owner: Member, key: ApiKey) -> None:
    identity.revoke_key(identity.issue_key(owner).id)

    assert identity.identify(str(key)).user_id == key.id


def test_a_key_revoked_by_another_process_is_soon_refused(
    identity: EmbeddedIdentity, key: ApiKey, tmp_path: Path, clock: Clock
) -> None:
    identity.identify(str(key))
    with closing(database(tmp_path)) as other:
        other.execute("UPDATE api_keys SET revoked_at = 'now'")
    clock.advance(REMEMBER_SECONDS)

    assert refused(identity, str(key)) == MESSAGE


@pytest.mark.parametrize("role", list(Role))
def test_a_key_may_no_more_than_its_member(identity: EmbeddedIdentity, key: ApiKey, tmp_path: Path, role: Role) -> None:
    with closing(database(tmp_path)) as other:
        other.execute("UPDATE memberships SET role = ?", (role,))

    principal = identity.identify(str(key))

    assert (principal.role, principal.scopes) == (role, ROLES[role])


def test_a_member_may_no_more_with_a_key_than_the_key(identity: EmbeddedIdentity, key: ApiKey, tmp_path: Path) -> None:
    with closing(database(tmp_path)) as other:
        other.execute("UPDATE api_keys SET role = 'viewer'")

    assert identity.identify(str(key)).role == Role.VIEWER


def test_a_known_key_is_not_looked_up_again(identity: EmbeddedIdentity, key: ApiKey) -> None:
    first = identity.identify(str(key))
    identity._directory = Nobody()

    assert identity.identify(str(key)) == first


def test_a_known_token_is_refused_once_it_has_expired(identity: EmbeddedIdentity, clock: Clock) -> None:
    token = issue_token(lifetime=timedelta(seconds=60))
    identity.identify(token)
    clock.advance(61)

    assert refused(identity, token) == MESSAGE


def test_what_is_remembered_is_bounded(identity: EmbeddedIdentity) -> None:
    tokens = [issue_token(sub=f"user_{number}") for number in range(MAX_REMEMBERED + 10)]
    for token in tokens:
        identity.identify(token)

    assert len(identity._remembered) == MAX_REMEMBERED
    assert identity.identify(tokens[0]).user_id == "user_0"


def test_what_is_refused_is_not_remembered(identity: EmbeddedIdentity) -> None:
    for credential in FORGERIES.values():
        refused(identity, credential)

    assert identity._remembered == {}


def test_a_credential_of_the_greatest_length_passes(identity: EmbeddedIdentity) -> None:
    padded = (issue_token(pad="a" * pad) for pad in range(5000, 7000))
    fitting = [token for token in padded if len(token) <= MAX_CREDENTIAL_CHARS]

    assert len(fitting[-1]) > MAX_CREDENTIAL_CHARS - 3
    assert identity.identify(fitting[-1]).user_id == "user_1"
    assert refused(identity, issue_token(pad="a" * (5000 + len(fitting)))) == MESSAGE


@pytest.mark.parametrize("secret", ["", "short", "a" * 31])
def test_a_short_token_secret_is_refused(tmp_path: Path, clock: Clock, secret: str) -> None:
    with pytest.raises(InvalidRequest, match="ENCLAVE_JWT_SECRET must be at least 32 bytes"):
        Identity.open(tmp_path, nowhere, now=clock, jwt_secret=secret)


def test_a_token_secret_may_be_any_bytes(tmp_path: Path, clock: Clock) -> None:
    secret = b"\xff" * 32
    with closing(
        Identity.open(tmp_path, nowhere, now=clock, jwt_secret=secret.decode(errors="surrogateescape")).authority
    ) as one:
        assert one.identify(jwt.encode(CLAIMS, secret, algorithm="HS256")).user_id == "user_1"


def test_without_a_token_secret_no_guessable_one_is_used(tmp_path: Path, clock: Clock) -> None:
    with closing(Identity.open(tmp_path, nowhere, now=clock).authority) as identity:
        secrets = json.loads((tmp_path / "secrets.json").read_text())

        assert refused(identity, issue_token()) == MESSAGE
        assert identity.identify(issue_token(secret=secrets["jwtSecret"])).user_id == "user_1"


def test_keys_outlive_a_restart(key: ApiKey, tmp_path: Path, clock: Clock) -> None:
    with closing(Identity.open(tmp_path / "home", nowhere, now=clock).authority) as identity:
        assert identity.identify(str(key)).user_id == key.id


def test_a_database_of_a_newer_version_is_refused(key: ApiKey, tmp_path: Path, clock: Clock) -> None:
    with closing(database(tmp_path)) as other:
        other.execute("PRAGMA user_version = 99")

    with pytest.raises(Unavailable, match="newer Enclave"):
        Identity.open(tmp_path / "home", nowhere, now=clock)
