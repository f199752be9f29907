"""Credentials that are none, as they come on the wire: one answer to all of them, byte for byte."""

import base64
import hmac
import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from enclave.contracts.identity import Role
from tests.acceptance.installation import Installation, installation
from tests.identity.test_authority import CLAIMS, FORGERIES, segment, signed
from tests.identity.tokens import SECRET

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

PATHS = ("/whoami", "/sessions", "/keys", f"/sessions/ses_{'0' * 26}", "/bindings/of-b")
HEADER = {"alg": "HS256"}


def raw(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def by_hand(header: str, claims: str) -> str:
    """A token of this very text, signed as it should be."""
    signing = f"{raw(header)}.{raw(claims)}"
    signature = hmac.digest(SECRET.encode(), signing.encode(), "sha256")
    return f"{signing}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


TEXT = json.dumps(CLAIMS)
TRICKS = {
    "kid of an empty file": signed(HEADER | {"kid": "/dev/null"}, CLAIMS, secret=""),
    "kid above the root": signed(HEADER | {"kid": "../../../../dev/null"}, CLAIMS, secret=""),
    "kid of SQL": signed(HEADER | {"kid": "' UNION SELECT 'x' --"}, CLAIMS, secret="x"),
    "kid is a number": signed(HEADER | {"kid": 1}, CLAIMS),
    "a key of its own": signed(HEADER | {"jwk": {"kty": "oct", "k": raw("x")}}, CLAIMS, secret="x"),
    "a key from elsewhere": signed(
        HEADER | {"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}, CLAIMS, secret="x"
    ),
    "an unencoded payload": signed(HEADER | {"b64": False, "crit": ["b64"]}, CLAIMS),
    "alg in small letters": signed({"alg": "hs256"}, CLAIMS),
    "exp beyond every float": by_hand('{"alg":"HS256"}', TEXT.replace("4102444800", "1" + "0" * 400)),
    "exp is no number": by_hand('{"alg":"HS256"}', TEXT.replace("4102444800", "NaN")),
    "exp below nothing": signed(HEADER, CLAIMS | {"exp": -1}),
    "exp is empty": signed(HEADER, CLAIMS | {"exp": None}),
    "nbf is text": signed(HEADER, CLAIMS | {"nbf": "now"}),
    "nbf beyond every float": by_hand('{"alg":"HS256"}', TEXT[:-1] + ', "nbf": 1' + "0" * 400 + "}"),
    "iat to come": signed(HEADER, CLAIMS | {"iat": 4102444800}),
    "sub is an object": signed(HEADER, CLAIMS | {"sub": {"$ne": None}}),
    "role in capitals": signed(HEADER, CLAIMS | {"role": "OWNER"}),
    "role is an object": signed(HEADER, CLAIMS | {"role": {"owner": 1}}),
    "claims too deep": by_hand('{"alg":"HS256"}', TEXT[:-1] + ', "a": ' + "[" * 2500 + "]" * 2500 + "}"),
    "header too deep": f"{raw('[' * 2500 + ']' * 2500)}.{segment(CLAIMS)}.AA",
    "claims that are no JSON": by_hand('{"alg":"HS256"}', "{'sub': 1}"),
    "claims of a lone surrogate": by_hand('{"alg":"HS256"}', TEXT.replace("user_1", "\\ud800")),
    "many dots": "." * 8000,
    "an encrypted token": f"{segment({'alg': 'dir', 'enc': 'A256GCM'})}..AA.AA.AA",
    "the JSON form": raw(json.dumps({"payload": raw(TEXT), "signatures": []})),
    "as long as may be": "a" * 8192,
    "an operator's": f"eo_{'0' * 16}_{'a' * 43}",
    "a refresh token's shape": f"er_{'0' * 16}_{'a' * 43}",
    "an invitation's shape": f"ei_{'0' * 16}_{'a' * 43}",
    "another prefix": f"zz_{'0' * 16}_{'a' * 43}",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVE_JWT_SECRET", SECRET)
        with installation(tmp_path_factory.mktemp("home")) as made:
            yield made


def answered(site: Installation, path: str, *lines: bytes) -> bytes:
    """All that the server says to a GET with these lines in its head, but the date."""
    host, port = site.client.netloc.split(":")
    head = [f"GET {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", *lines, b"", b""]
    said = b""
    with closing(socket.create_connection((host, int(port)), timeout=20)) as connection:
        connection.sendall(b"\r\n".join(head))
        while part := connection.recv(65536):
            said += part
    first, *rest = said.split(b"\r\n")
    return b"\r\n".join([first, *(line for line in rest if not line.lower().startswith(b"date:"))])


def bearer(credential: str) -> bytes:
    return f"Authorization: Bearer {credential}".encode("latin-1", errors="surrogateescape")


@pytest.mark.parametrize("path", PATHS)
def test_without_a_credential_there_is_one_answer(site: Installation, path: str) -> None:
    expected = answered(site, PATHS[0])
    assert expected.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert answered(site, path) == expected


def test_the_tokens_below_would_pass_but_for_what_is_wrong_with_them(site: Installation) -> None:
    for token in (signed(HEADER, CLAIMS), by_hand('{"alg":"HS256"}', TEXT)):
        assert answered(site, "/whoami", bearer(token)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("credential", [*(FORGERIES | TRICKS).values()], ids=[*(FORGERIES | TRICKS)])
def test_whatever_is_wrong_with_it_the_answer_is_that_to_none(site: Installation, credential: str) -> None:
    if len(credential) > 60_000:
        # The head is cut off before anybody sees that there is a credential.
        assert not answered_or_cut_off(site, bearer(credential)).startswith(b"HTTP/1.1 5")
        return
    assert answered(site, "/sessions", bearer(credential)) == answered(site, "/sessions")


def answered_or_cut_off(site: Installation, line: bytes) -> bytes:
    try:
        return answered(site, "/sessions", line)
    except ConnectionError:
        return b""


def test_a_credential_is_given_once_and_as_a_bearer(site: Installation) -> None:
    none = answered(site, "/whoami")
    good = site.a.tokens[Role.OWNER].encode()
    key = site.a.keys[Role.OWNER].encode()
    refused: list[tuple[bytes, ...]] = [
        (b"Authorization: Bearer " + good, b"Authorization: Bearer " + good),
        (b"Authorization: Bearer " + good, b"authorization: Bearer " + key),
        (b"Authorization: Bearer " + good, b"Authorization:"),
        (b"Authorization: Bearer " + good + b", Bearer " + good,),
        (b"Authorization: Bearer " + good + b" x",),
        (b"Authorization: Bearer\t" + good,),
        (b"Authorization: " + good,),
        (b"Authorization: Token " + good,),
        (b"Authorization: Basic " + base64.b64encode(b"x:" + key),),
        (b"Authorization: Digest username=x",),
        (b'Authorization: Bearer "' + good + b'"',),
        (b"Authorization: Bearer " + key.upper(),),
        (b"Authorization: Bearer " + key + b"\xc3\xa9",),
        (b"Authorization: Bearer " + key[:-1],),
        (b"X-Authorization: Bearer " + good,),
        (b"Proxy-Authorization: Bearer " + good,),
        (b"Cookie: Authorization=Bearer " + good,),
        (b"X-API-Key: " + key,),
    ]
    for lines in refused:
        assert answered(site, "/whoami", *lines) == none, lines
    for path in (f"/whoami?access_token={good.decode()}", f"/whoami?apiKey={key.decode()}"):
        assert answered(site, path) == none


def test_a_good_one_passes_however_its_scheme_is_written(site: Installation) -> None:
    for scheme in (b"Bearer", b"bearer", b"BEARER"):
        for space in (b" ", b"   "):
            for given in (site.a.tokens[Role.OWNER], site.a.keys[Role.OWNER]):
                line = b"Authorization: " + scheme + space + given.encode()
                assert answered(site, "/whoami", line).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("byte", [b"\0", b"\x01", b"\n", b"\r", b"\x7f", b"\x0b"])
def test_what_no_header_may_hold_is_no_request_or_no_credential(site: Installation, byte: bytes) -> None:
    for line in (b"Authorization: Bearer a" + byte + b"b", b"Authorization: Bearer " + byte, byte + b": x"):
        said = answered(site, "/whoami", line)
        assert said.split(b" ")[1] in (b"400", b"401"), said
