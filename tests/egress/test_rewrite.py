"""What of a call passes: the grant's methods and paths, and nothing that could be read in two ways."""

import dataclasses

import pytest

from enclave.core.grant import Grant
from enclave.egress.service.outcome import Rejection
from enclave.egress.service.rewrite import route
from enclave.egress.service.scrub import Unusable
from tests.egress.rig import GRANT, PLAIN

BOUND = dataclasses.replace(GRANT, url="https://upstream.test/api/", methods=("GET",), paths=("/v1/items", "v2/"))
QUERY = dataclasses.replace(GRANT, inject="query", parameter="api_key")


@pytest.mark.parametrize(
    "target",
    ["/v1/items", "/v1/items/", "/v1/items/a%20b/..c", "/v1/items?next=/../x;y", "/v2/x", "/v2", "/v1/items/a:b"],
)
def test_paths_below_a_prefix_pass_as_they_are(target: str) -> None:
    to = route(BOUND)
    to.check("GET", target)

    assert to.target(target) == f"/api{target}".encode()


@pytest.mark.parametrize(
    "target", ["/", "/v1", "/v1/itemsx", "/v1/item", "/V1/items", "/v1/%69tems", "/v3?x=/v1/items"]
)
def test_other_paths_are_refused(target: str) -> None:
    with pytest.raises(Rejection) as rejection:
        route(BOUND).check("GET", target)

    assert rejection.value.status == 403


AMBIGUOUS = """
/v1/items/.. /v1/items/../x /v1/items/./x /v1/items/. /../v1/items /v1/items//x //v1/items /v1/items//
/v1/items/%2e%2e/x /v1/items/%2E./x /v1/items/.%2e /v1/items/%2e /v1/items%2fx /v1/items%2Fx /v1/items/%5c..%5cx
/v1/items/..\\x /v1/items\\..\\x /v1/items/..;/x /v1/items;a=b/x /v1/items/..%3b/x /v1/items/%252e%252e/x
/v1/items/%252fx /v1/items/%00 /v1/items/%0d%0a /v1/items/%zz /v1/items/% /v1/items/%c0%ae%c0%ae/x /v1/items/%ff
/v1/items/%ef%bc%8e%ef%bc%8e/x /v1/items/%e2%80%a5/x /v1/items%ef%bc%8fx /v1/items/...%20/x /v1/items/%20/x
/v1/items/..%20/x /v1/items#/../x /v1/items?x#y
""".split()


@pytest.mark.parametrize("target", AMBIGUOUS)
@pytest.mark.parametrize("grant", [BOUND, GRANT], ids=["bound", "any"])
def test_what_could_be_read_in_two_ways_is_refused(grant: Grant, target: str) -> None:
    with pytest.raises(Rejection) as rejection:
        route(grant).check("GET", target)

    assert rejection.value.status == 400


@pytest.mark.parametrize(
    "target", ["http://evil.test/", "https://upstream.test/v1/items", "evil.test:443", "*", "v1/items"]
)
def test_only_paths_can_be_asked_for(target: str) -> None:
    with pytest.raises(Rejection) as rejection:
        route(BOUND).check("GET", target)

    assert rejection.value.status == 400


@pytest.mark.parametrize(
    ("method", "status"),
    [("POST", 403), ("get", 403), ("TRACE", 400), ("trace", 400), ("TRACK", 400), ("CONNECT", 400)],
)
def test_other_methods_are_refused(method: str, status: int) -> None:
    with pytest.raises(Rejection) as rejection:
        route(BOUND).check(method, "/v1/items")

    assert rejection.value.status == status


def test_a_prefix_may_hold_what_a_url_spells_otherwise() -> None:
    to = route(dataclasses.replace(GRANT, paths=("/ä b",)))

    to.check("GET", "/%C3%A4%20b/c")


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/x", "/x?api_key=KEY"),
        ("/x?", "/x?api_key=KEY"),
        ("/x?a=1&b=%20&&c", "/x?a=1&b=%20&&c&api_key=KEY"),
        ("/x?api_key=mine&a=1", "/x?a=1&api_key=KEY"),
        ("/x?a=1;api_key=mine", "/x?a=1&api_key=KEY"),
        ("/x?API-KEY=mine&api%5Fkey=mine&%61pi_key&api.key=1", "/x?api_key=KEY"),
        ("/x?api_key[]=mine&api_key%5B0%5D=mine&+api_key=mine&api_key%00=mine", "/x?api_key=KEY"),
    ],
)
def test_an_injected_parameter_is_the_only_one_of_its_name(target: str, sent: str) -> None:
    assert route(QUERY).target(target) == sent.replace("KEY", PLAIN).encode()


DROPPED = """
authorization AUTHORIZATION Cookie Host Connection Keep-Alive TE Trailer Transfer-Encoding Content-Length Upgrade Via
Proxy-Authorization Proxy-Connection Forwarded X-Forwarded-For X_Forwarded_Host X-Real-IP Expect Accept-Encoding Range
If-Range X-HTTP-Method-Override X-HTTP-Method X-Method-Override X-Original-URL X-Rewrite-URL X-Api-Key x_api_key
X-APIKEY X-Mine
""".split()


def test_headers_that_are_not_passed_on() -> None:
    to = route(dataclasses.replace(GRANT, inject="header", parameter="X-Api-Key", template="key={secret}"))
    sent = [(name.encode(), b"evil") for name in DROPPED if name != "Connection"]

    headers = to.headers([*sent, (b"Connection", b"close, x-mine"), (b"Accept", b"*/*"), (b"X-Other", b"1")])

    assert headers == [
        (b"Host", b"upstream.test"),
        (b"Accept", b"*/*"),
        (b"X-Other", b"1"),
        (b"Accept-Encoding", b"identity"),
        (b"X-Api-Key", f"key={PLAIN}".encode()),
    ]


def test_headers_that_are_not_returned() -> None:
    dropped = "Connection Keep-Alive Transfer-Encoding Trailer Upgrade Set-Cookie Alt-Svc Proxy-Authenticate X-Mine"
    answered = [(name.encode(), b"1") for name in dropped.split()]

    returned = route(GRANT).returned(
        [
            *answered,
            (b"Connection", b"x-mine"),
            (f"X-{PLAIN}".encode(), b"1"),
            (b"ETag", b'"1"'),
            (b"L", PLAIN.encode()),
        ]
    )

    assert returned == [(b"ETag", b'"1"'), (b"L", b"[secret]")]


def test_the_ways_to_inject() -> None:
    def injected(**changes: object) -> tuple[bytes, bytes] | None:
        return route(dataclasses.replace(GRANT, **changes)).header  # type: ignore[arg-type]

    assert injected() == (b"Authorization", f"Bearer {PLAIN}".encode())
    assert injected(inject="basic", secret="user:pass") == (b"Authorization", b"Basic dXNlcjpwYXNz")
    assert injected(inject="header", parameter="X-Key") == (b"X-Key", PLAIN.encode())
    assert injected(inject="query", parameter="key") is None


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "base", "authority"),
    [
        ("https://a.test", "a.test", 443, True, "", "a.test"),
        ("https://A.test:443/x/", "a.test", 443, True, "/x", "a.test"),
        ("http://a.test:8080/", "a.test", 8080, False, "", "a.test:8080"),
        ("https://[::1]:444", "::1", 444, True, "", "[::1]:444"),
    ],
)
def test_where_a_url_leads(url: str, host: str, port: int, tls: bool, base: str, authority: str) -> None:
    to = route(dataclasses.replace(GRANT, url=url))

    assert (to.host, to.port, to.tls, to.base, to.authority) == (host, port, tls, base, authority)


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ftp://a.test"},
        {"url": "https://"},
        {"url": "https://a.test:x"},
        {"url": "https://user@a.test"},
        {"url": "https://a.test?x"},
        {"url": "https://a.test/a/../b"},
        {"url": "https://a.test/a b"},
        {"secret": "line\r\nX-Evil: 1"},
        {"secret": " padded "},
        {"secret": "zero\0zero"},
        {"inject": "header", "parameter": "X Key"},
        {"inject": "header", "parameter": ""},
        {"inject": "header", "parameter": "Host"},
        {"inject": "header", "parameter": "Content_Length"},
        {"inject": "header", "parameter": "X", "template": "{secret}\n"},
        {"inject": "query", "parameter": ""},
        {"secret": "abc"},
    ],
)
def test_grants_that_cannot_be_used(changes: dict[str, str]) -> None:
    with pytest.raises(Unusable) as refusal:
        route(dataclasses.replace(GRANT, **changes))  # type: ignore[arg-type]

    assert PLAIN not in str(refusal.value)
    assert changes.get("secret", PLAIN) not in str(refusal.value)
