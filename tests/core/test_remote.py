"""Which urls name a repository, and which of them a secret may be sent to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.contracts.errors import InvalidRequest
from enclave.core.grant import Grant
from enclave.core.remote import Remote


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/a/b.git", Remote("https", "example.org", 443, "/a/b.git")),
        ("https://Example.ORG:8443/a", Remote("https", "example.org", 8443, "/a")),
        ("http://[::1]:80/a", Remote("http", "::1", 80, "/a")),
    ],
)
def test_a_plain_url_is_taken(url: str, expected: Remote) -> None:
    assert Remote.parse(url) == expected
    assert Remote.parse(expected.url) == expected


HOSTILE = [
    "-u",
    "--upload-pack=touch /tmp/x",
    "https://-oProxyCommand=x/a",
    "ext::sh -c id",
    "ext::https://example.org/a",
    "file:///etc",
    "/etc",
    "git@example.org:a/b",
    "ssh://example.org/a",
    "git://example.org/a",
    "https:/a",
    "https:///a",
    "https://example.org",
    "https://user:SECRET@example.org/a",
    "https://SECRET@example.org/a",
    "https://example.org/a?x=SECRET",
    "https://example.org/a#SECRET",
    "https://example.org/a/../b",
    "https://example.org/a/%2e%2e/b",
    "https://example.org/a%2f..%2fb",
    "https://example.org:x/a",
    "https://example.org:99999/a",
    "https://example.org/a\nb",
    "https://example.org/a b",
    "https://example.org\\@evil/a",
    "https://exämple.org/a",
    "https://[::1/a",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_anything_else_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Remote.parse(url)

    assert [problem.field for problem in refused.value.errors] == ["source.git.url"]
    assert "SECRET" not in repr((refused.value.detail, refused.value.errors))


@given(st.text(max_size=40))
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        remote = Remote.parse(f"https://{text}")
    except InvalidRequest:
        return
    assert Remote.parse(remote.url) == remote


def grant(url: str, **more: Any) -> Grant:
    return Grant(name="x", url=url, inject="bearer", secret="s", **more)


@pytest.mark.parametrize(
    ("binding", "url", "expected"),
    [
        (grant("https://example.org"), "https://example.org/a/b", True),
        (grant("https://example.org/"), "https://example.org/a/b", True),
        (grant("https://EXAMPLE.org:443/a"), "https://example.org/a/b", True),
        (grant("https://example.org/a"), "https://example.org/a", True),
        (grant("https://example.org/a"), "https://example.org/ab", False),
        (grant("https://example.org/a"), "https://example.org/b", False),
        (grant("https://example.org"), "https://evil.org/a", False),
        (grant("https://example.org"), "https://example.org.evil.org/a", False),
        (grant("https://example.org"), "https://example.org:8443/a", False),
        (grant("https://example.org"), "http://example.org/a", False),
        (grant("https://example.org", paths=("/a",)), "https://example.org/a/b", True),
        (grant("https://example.org", paths=("/a",)), "https://example.org/b", False),
    ],
)
def test_a_secret_goes_where_its_binding_says_and_nowhere_else(binding: Grant, url: str, expected: bool) -> None:
    assert Remote.parse(url).is_within(binding) is expected
