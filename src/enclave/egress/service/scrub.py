"""Taking a secret out of what an upstream answers, wherever the answer is cut into pieces.

An upstream that echoes a request would hand the secret to the sandbox. What is found here is the secret, and what it is
in basic credentials, each of its characters being spelled plainly or by any of the usual escapes: of URLs, of JSON, of
HTML. An upstream that transforms it in another way (reverses it, encrypts it, spells it out) is beyond recognizing.
"""

import base64
import re
from collections.abc import Iterator
from html.entities import codepoint2name
from typing import Final

from enclave.core.grant import Grant

LEAST_CHARACTERS: Final = 4
"""A shorter secret is refused: taking it out would shred every body, leaving it in would break the promise. It could be
guessed in less than a second anyway."""

MOST_CHARACTERS: Final = 4096
"""What is held back between two pieces grows with the secret, so there is an end to it. Half of what servers take as a
header line (8 KiB: nginx, large_client_header_buffers; Apache, LimitRequestFieldSize)."""

Spellings = tuple[bytes, ...]
"""The ways in which one character is written, the longest first."""

_NEVER_ESCAPED: Final = re.compile(r"[0-9A-Za-z._-]")
_NAMES: Final = codepoint2name | {ord("'"): "apos"}
_REPLACEMENTS: Final = tuple(
    b"%c%s%c" % (edges[0], word, edges[1])
    for word in (b"secret", b"hidden", b"******")
    for edges in (b"[]", b"()", b"{}", b"<>", b"**", b"||", b"~~", b"^^")
)


class Unusable(ValueError):
    """A grant that cannot be used as it is; the text says why and holds nothing of the secret."""


def plain(grant: Grant) -> tuple[str, ...]:
    """The texts that may not be seen, the longest first; raises Unusable for the secret's length."""
    texts = {grant.secret}
    if grant.inject == "basic":
        user, _, password = grant.secret.partition(":")
        # Of `user:password` the password alone too; the user where there is no password, as some services have it.
        # Base64 without its padding, which may be dropped; what is left of it says nothing.
        texts |= {password or user, base64.b64encode(grant.secret.encode()).decode().rstrip("=")}
    if min(map(len, texts)) < LEAST_CHARACTERS or len(grant.secret) > MOST_CHARACTERS:
        raise Unusable(f"the secret must have between {LEAST_CHARACTERS} and {MOST_CHARACTERS} characters")
    if "\\" * 5 in grant.secret:
        # Each of a run may be one of the text or half an escape of it, and looking for it doubles with each.
        raise Unusable("the secret has more than four backslashes in a row")
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))


def spellings(character: str) -> Spellings:
    """How a character is written, plainly and escaped; letters and digits are never escaped."""
    if _NEVER_ESCAPED.fullmatch(character):
        return (character.encode(),)
    ways = {character, *_escapes(character)}
    return tuple(sorted((way.encode() for way in ways | {way.lower() for way in ways if len(way) > 1}), key=_rank))


def _rank(way: bytes) -> tuple[int, bytes]:
    return -len(way), way


def _escapes(character: str) -> Iterator[str]:
    code, units = ord(character), character.encode("utf-16-be").hex().upper()
    yield "".join(f"%{byte:02X}" for byte in character.encode())  # RFC 3986, 2.1
    yield "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))  # RFC 8259, 7
    yield from (f"&#{code};", f"&#x{code:X};")
    if name := _NAMES.get(code):
        yield f"&{name};"
    if character == " ":
        yield "+"
    if character in "\"\\/'":
        yield f"\\{character}"
    if code < 256:
        yield f"\\x{code:02X}"


class Scrub:
    """What finds some texts in all their spellings; made once for a grant, used for any number of streams.

    Raises Unusable if they hold every sign that could stand at the edges of what replaces them.
    """

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._spelled = [tuple(map(spellings, text)) for text in sorted(texts, key=len, reverse=True)]
        self._longest = max(sum(len(ways[0]) for ways in one) for one in self._spelled)
        self._pattern = re.compile(b"|".join(b"".join(map(_either, one)) for one in self._spelled))
        self._begin = re.compile(b"|".join(re.escape(way[:1]) for one in self._spelled for way in one[0]))
        self.replacement = self._chosen()

    def whole(self, text: bytes) -> bytes:
        """The text with every occurrence replaced, from the left."""
        return self._pattern.sub(lambda _: self.replacement, text)

    def stream(self) -> "Stream":
        """Something that does the same to a text that comes in pieces."""
        return Stream(self)

    def settle(self, text: bytes) -> tuple[bytes, bytes]:
        """What is certain of a text that goes on, scrubbed, and its end, that may be the begin of an occurrence."""
        settled: list[bytes] = []
        at, cut = 0, self._open(text, 0)
        while (match := self._pattern.search(text, at)) and match.start() < cut:
            settled += [text[at : match.start()], self.replacement]
            at = match.end()
            cut = cut if at <= cut else self._open(text, at)
        return b"".join([*settled, text[at:cut]]), text[cut:]

    def _open(self, text: bytes, at: int) -> int:
        """The first place, at `at` or later, where an occurrence may have begun that is not complete."""
        begins = self._begin.finditer(text, max(at, len(text) - self._longest + 1))
        return next((one.start() for one in begins if self._may_become(text[one.start() :])), len(text))

    def _may_become(self, end: bytes) -> bool:
        return any(_is_begun(one, end) for one in self._spelled)

    def _chosen(self) -> bytes:
        """A replacement with edges that no spelling has a part in, so that it cannot make an occurrence anew."""
        used = {byte for one in self._spelled for ways in one for way in ways for byte in way}
        for one in _REPLACEMENTS:
            if one[0] not in used and one[-1] not in used and not self._pattern.search(one):
                return one
        raise Unusable("the secret holds every sign that could mark its place")


class Stream:
    """One text in pieces. Held back between two is only what may be the begin of an occurrence, less than the longest
    one: an event stream is not delayed by what is not in it."""

    def __init__(self, scrub: Scrub) -> None:
        self._scrub = scrub
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on, now that this piece is there."""
        settled, self._held = self._scrub.settle(self._held + piece)
        return settled

    def end(self) -> bytes:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, b""
        return self._scrub.whole(held)


def _either(ways: Spellings) -> bytes:
    return re.escape(ways[0]) if len(ways) == 1 else b"(?:" + b"|".join(map(re.escape, ways)) + b")"


def _is_begun(spelled: tuple[Spellings, ...], end: bytes) -> bool:
    """Whether a text ends within the spelled one, having begun with it."""
    reached = {0}
    for ways in spelled:
        if any(way.startswith(end[at:]) and len(way) > len(end) - at for at in reached for way in ways):
            return True
        reached = {at + len(way) for at in reached for way in ways if end.startswith(way, at)}
        if not reached:
            return False
    return False
