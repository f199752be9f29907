"""The secret is out of every text, however it comes in pieces, in every form it has on the wire."""

import base64
import html
import itertools
import json
import re
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.core.grant import Grant
from enclave.egress.service.scrub import Scrub, Unusable, plain, spellings
from tests.egress.rig import PLAIN, SECRET

TEXTS = st.text("ab][", max_size=60).map(str.encode)
SECRETS = st.text("ab", min_size=1, max_size=6)
ESCAPED = st.text('a/"&+ é', min_size=1, max_size=6)


def granting(secret: str, inject: str = "bearer") -> Grant:
    return Grant(name="x", url="https://x", inject=inject, secret=secret)  # type: ignore[arg-type]


def streamed(scrub: Scrub, pieces: list[bytes]) -> bytes:
    stream = scrub.stream()
    return b"".join([*map(stream.feed, pieces), stream.end()])


def cut(text: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(one, len(text)) for one in at), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(bounds)]


@given(SECRETS, TEXTS, st.lists(st.integers(0, 60)))
def test_in_pieces_it_is_what_replace_makes_of_the_whole(secret: str, text: bytes, at: list[int]) -> None:
    assert streamed(Scrub((secret,)), cut(text, at)) == text.replace(secret.encode(), b"[secret]")


@given(st.lists(SECRETS, min_size=1, max_size=4), TEXTS, st.lists(st.integers(0, 60)))
def test_of_several_the_leftmost_longest_is_replaced_and_none_is_left(
    sought: list[str], text: bytes, at: list[int]
) -> None:
    longest_first = "|".join(sorted(sought, key=len, reverse=True)).encode()

    scrubbed = streamed(Scrub(tuple(sought)), cut(text, at))

    assert scrubbed == re.sub(longest_first, b"[secret]", text)
    assert not any(one.encode() in scrubbed for one in sought)


@given(ESCAPED, st.data())
def test_each_character_may_be_spelled_in_its_own_way(secret: str, data: st.DataObject) -> None:
    scrub = Scrub((secret,))
    spelled = b"".join(data.draw(st.sampled_from(spellings(one))) for one in secret)

    pieces = cut(b"<" + spelled + b">", data.draw(st.lists(st.integers(0, 40))))

    assert streamed(scrub, pieces) == b"<[secret]>"


@given(ESCAPED, st.lists(st.text('a/"&+ é\\%2fu0', max_size=9)), st.data())
def test_pieces_make_no_difference(secret: str, around: list[str], data: st.DataObject) -> None:
    scrub = Scrub((secret,))
    ways = [data.draw(st.sampled_from(spellings(one))) for _ in around for one in secret]
    text = b"".join(data.draw(st.permutations([*ways, *(one.encode() for one in around)])))

    assert streamed(scrub, cut(text, data.draw(st.lists(st.integers(0, 200))))) == scrub.whole(text)


def test_every_cut_of_a_secret() -> None:
    scrub, text = Scrub(plain(granting(PLAIN))), f"{{'token': '{PLAIN}'}}".encode()

    for at in range(len(text) + 1):
        assert streamed(scrub, cut(text, [at])) == b"{'token': '[secret]'}"
    assert streamed(scrub, [text[at : at + 1] for at in range(len(text))]) == b"{'token': '[secret]'}"


def test_only_what_may_be_the_begin_of_a_secret_is_held_back() -> None:
    stream = Scrub(plain(granting(PLAIN))).stream()

    assert stream.feed(b"data: 1\n\n") == b"data: 1\n\n"
    assert stream.feed(b"data: sk_li") == b"data: "
    assert stream.feed(b"mit\n\n") == b"sk_limit\n\n"
    assert stream.end() == b""


def go_escaped(text: str) -> str:
    return json.dumps(text).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@pytest.mark.parametrize(
    "written",
    [
        str,
        lambda secret: quote(secret, safe=""),
        lambda secret: re.sub("%..", lambda found: found[0].lower(), quote(secret, safe="")),
        quote,
        quote_plus,
        lambda secret: urlencode({"token": secret}),
        json.dumps,
        lambda secret: json.dumps(secret, ensure_ascii=False),
        lambda secret: json.dumps(secret).replace("/", "\\/"),
        go_escaped,
        html.escape,
        lambda secret: html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    ],
)
@pytest.mark.parametrize("secret", [PLAIN, SECRET, "a/b+c=d&e<f>\"g'h i~j"])
def test_the_forms_in_which_upstreams_echo(written: "type[str]", secret: str) -> None:
    text = f"before {written(secret)} after".encode()

    scrubbed = Scrub(plain(granting(secret))).whole(text)

    assert re.fullmatch(rb'before (token=|")?\[secret\]"? after', scrubbed)


def test_basic_credentials_in_each_of_their_plain() -> None:
    secret = "user:pass/word?>"
    encoded = base64.b64encode(secret.encode()).decode()
    scrub = Scrub(plain(granting(secret, "basic")))

    said = f"{secret} {encoded} {encoded.rstrip('=')} {quote(encoded)} pass/word?>".encode()

    assert scrub.whole(said) == b"[secret] [secret]== [secret] [secret]%3D%3D [secret]"
    assert scrub.whole(b"the user, not the word") == b"the user, not the word"


def test_without_a_password_the_user_is_the_secret() -> None:
    assert Scrub(plain(granting(f"{PLAIN}:", "basic"))).whole(PLAIN.encode()) == b"[secret]"


@pytest.mark.parametrize(
    ("secret", "inject"),
    [("abc", "bearer"), ("", "header"), ("user:abc", "basic"), ("x" * 4097, "bearer"), ("\\" * 5, "bearer")],
)
def test_a_secret_that_cannot_be_scrubbed_is_refused(secret: str, inject: str) -> None:
    with pytest.raises(Unusable) as refusal:
        plain(granting(secret, inject))

    assert not secret or secret not in str(refusal.value)


@pytest.mark.parametrize("secret", ["cret", "]abc", "abc[", "secret", "x[secret]x", "]**(", "hidden(secret["])
def test_what_stands_in_its_place_never_makes_it_anew(secret: str) -> None:
    scrub = Scrub((secret,))

    assert secret not in scrub.whole((secret * 3 + secret[1:] + secret[:1] + secret).encode()).decode()
    assert scrub.replacement != b"[secret]"


def test_a_secret_of_every_sign_is_refused() -> None:
    with pytest.raises(Unusable, match="mark its place"):
        Scrub(("[(}<*|~^",))


def test_a_text_is_replaced_once_and_as_a_whole() -> None:
    assert Scrub(("abcd", "abcdef")).whole(b"abcdef abcd") == b"[secret] [secret]"
