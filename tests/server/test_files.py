"""Files over HTTP: what goes in is bounded before it is held, and what comes out is data and nothing else."""

import asyncio
import base64
import hashlib

import pytest
from starlette.requests import Request
from starlette.types import Message

from enclave.contracts.errors import InvalidRequest, QuotaExceeded
from enclave.contracts.files import MAX_FILES_BYTES
from enclave.contracts.sessions import CreateSessionRequest
from enclave.server import reading
from enclave.server.reading import MAX_BODY_BYTES, SMALL_BYTES, Room, read_body
from tests.orchestrator.test_files import leaves
from tests.server.conftest import Answer, Site

pytestmark = pytest.mark.anyio

HEAD = b"POST /sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer owner.org_a\r\n"
PAGE = b"<script>alert(1)</script>"
LEFT = {"a.html": PAGE, "d/b c;\"'\u00fc.txt": b"two", "big": bytes(700_000)}


async def left(site: Site) -> str:
    site.backend.play = leaves(LEFT)
    answer = await site.ask("POST", "/sessions", {"code": "x"}, prefer="wait=5")
    assert [file["path"] for file in answer.json["result"]["files"]] == [*LEFT]
    return f"/sessions/{answer.json['id']}/files"


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


async def test_a_file_is_downloaded_and_never_shown(site: Site) -> None:
    answer = await site.ask("GET", f"{await left(site)}/a.html")

    assert (answer.status, answer.body) == (200, PAGE)
    tag = f'"{hashlib.sha256(PAGE).hexdigest()}"'
    assert {
        "content-type": "application/octet-stream",
        "content-length": str(len(PAGE)),
        "content-disposition": "attachment; filename*=UTF-8''a.html",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "cache-control": "no-store",
        "etag": tag,
    }.items() <= answer.headers.items()


async def test_a_name_cannot_end_the_header_it_is_in(site: Site) -> None:
    answer = await site.ask("GET", f"{await left(site)}/d/b%20c%3B%22%27%C3%BC.txt")

    assert (answer.status, answer.body) == (200, b"two")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''b%20c%3B%22%27%C3%BC.txt"


async def test_a_large_file_comes_whole_in_pieces(site: Site) -> None:
    assert (await site.ask("GET", f"{await left(site)}/big")).body == LEFT["big"]


async def test_a_head_has_no_body(site: Site) -> None:
    answer = await site.ask("HEAD", f"{await left(site)}/big")

    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "700000", b"")


@pytest.mark.parametrize("given", ["{tag}", 'W/{tag}, "x"', '"x", {tag}', "*"])
async def test_who_has_it_already_is_told_so(site: Site, given: str) -> None:
    tag = f'"{hashlib.sha256(PAGE).hexdigest()}"'
    answer = await site.ask("GET", f"{await left(site)}/a.html", if_none_match=given.format(tag=tag))

    assert (answer.status, answer.headers["etag"], answer.body) == (304, tag, b"")
    assert (await site.ask("GET", f"{await left(site)}/a.html", if_none_match='"x"')).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "b",
        "",
        "/a.html",
        "a.html/",
        "./a.html",
        "d/../a.html",
        "%2e/a.html",
        "%2e%2e/a.html",
        "..%2f..%2f..%2fetc/passwd",
        "%2fetc%2fpasswd",
        "..%5c..%5cetc",
        "%252e%252e/a.html",
        "a.html%00",
        "a.html%0a",
        "%ff",
        "0",
        "owner",
        "A.HTML",
        "d",
        "x" * 5000,
    ],
)
async def test_nothing_but_a_path_that_was_told_leads_anywhere(site: Site, path: str) -> None:
    where = await left(site)

    assert (await site.ask("GET", f"{where}/{path}")).status == 404


async def test_an_encoded_slash_is_a_slash(site: Site) -> None:
    assert (await site.ask("GET", f"{await left(site)}/d%2Fb%20c%3B%22%27%C3%BC.txt")).body == b"two"


async def test_who_may_not_see_the_session_may_not_see_that_it_has_files(site: Site) -> None:
    where = await left(site)
    other = await site.ask("GET", f"{where}/a.html", token="owner.org_b")
    never = await site.ask("GET", f"/sessions/ses_{'0' * 26}/files/a.html")

    assert (other.status, other.body) == (404, never.body)
    assert code(await site.ask("GET", f"{where}/a.html", token=None)) == (401, "unauthenticated")
    assert code(await site.ask("GET", f"{where}/none")) == (404, "no_such_file")


async def test_a_session_that_runs_has_no_files_yet(site: Site) -> None:
    session = await site.run()

    assert code(await site.ask("GET", f"/sessions/{session['id']}/files/a")) == (409, "conflict")


async def test_a_session_that_is_torn_down_has_none_any_more(site: Site) -> None:
    where = await left(site)
    await site.ask("DELETE", where.removesuffix("/files"))

    assert code(await site.ask("GET", f"{where}/a.html")) == (404, "no_such_file")


async def test_what_reads_slowly_and_goes_away_leaves_nothing_open(site: Site) -> None:
    connection = await site.open("GET", f"{await left(site)}/big")
    await connection.head()
    connection.close()

    assert (await site.ask("GET", "/healthz", token=None)).status == 200


# -- in ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"../a": ""}, "files.../a"),
        ({"a/b": 1}, "files.a/b"),
        ({"main.py": ""}, "files.main.py"),
        ({"a": "", "a/b": ""}, "files.a"),
        ({"a": {"base64": "?"}}, "files.a"),
        ({str(n): "" for n in range(257)}, "files"),
        ({"a": {"base64": base64.b64encode(bytes(MAX_FILES_BYTES + 1)).decode()}}, "files"),
    ],
)
async def test_a_file_that_cannot_be_is_named(site: Site, files: object, field: str) -> None:
    answer = await site.ask("POST", "/sessions", {"code": "x", "files": files})

    assert code(answer) == (400, "invalid_request")
    assert answer.json["errors"][0]["field"].startswith(field)
    assert site.backend.all == []


async def test_as_much_as_is_promised_fits_in_a_body(site: Site) -> None:
    content = {"a": {"base64": base64.b64encode(bytes(MAX_FILES_BYTES)).decode()}}
    answer = await site.ask("POST", "/sessions", {"code": "x" * 512 * 1024, "files": content})

    assert answer.status == 201
    assert site.backend.all[0].spec.files == {"a": bytes(MAX_FILES_BYTES)}


async def test_a_body_that_says_it_is_too_large_is_not_waited_for(site: Site) -> None:
    raw = await asyncio.open_connection("127.0.0.1", site.port)
    raw[1].write(HEAD + b"Content-Length: %d\r\n\r\n" % (1 << 40))

    assert b" 400 " in await raw[0].readline()
    raw[1].close()


async def test_a_body_that_never_ends_is_given_up_at_the_bound(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
    answer = asyncio.create_task(reader.readline())
    sent = 0
    while not answer.done() and sent < 4 * MAX_BODY_BYTES:
        writer.write(piece)
        sent += 1 << 20
        await asyncio.wait((answer, asyncio.ensure_future(writer.drain())), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)

    assert sent <= 2 * MAX_BODY_BYTES
    assert b" 400 " in await answer
    writer.close()


class Upload:
    """A body in two parts, the second of which waits to be let go."""

    def __init__(self, size: int) -> None:
        self._parts = [b'{"code": "x"}', b" " * (size - 13)]
        self.halted = asyncio.Event()
        self.go_on = asyncio.Event()

    async def receive(self) -> Message:
        if len(self._parts) == 1:
            self.halted.set()
            await self.go_on.wait()
        return {"type": "http.request", "body": self._parts.pop(), "more_body": bool(self._parts)}

    def read(self, room: Room) -> "asyncio.Task[CreateSessionRequest]":
        request = Request({"type": "http", "method": "POST", "headers": []}, self.receive)
        return asyncio.create_task(read_body(request, CreateSessionRequest, room))


async def test_bodies_share_what_memory_there_is() -> None:
    room = Room(free=250)
    first, second, third = Upload(SMALL_BYTES + 200), Upload(SMALL_BYTES + 100), Upload(SMALL_BYTES + 100)
    reading = first.read(room)
    await first.halted.wait()

    with pytest.raises(QuotaExceeded):
        await second.read(room)
    reading.cancel()
    await asyncio.wait((reading,))
    third.go_on.set()
    assert (await third.read(room)).code == "x"


async def test_who_sends_little_is_not_refused_for_those_who_send_much() -> None:
    upload = Upload(SMALL_BYTES)
    upload.go_on.set()

    assert (await upload.read(Room(free=0))).code == "x"


async def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ARRIVAL_SECONDS", 0)

    with pytest.raises(InvalidRequest, match="did not arrive"):
        await Upload(100).read(Room())


@pytest.mark.parametrize("path", ["/login", "/invitations/accept", "/token/refresh", "/password/reset", "/logout"])
async def test_of_strangers_little_is_read(site: Site, path: str) -> None:
    answer = await site.ask("POST", path, b" " * (SMALL_BYTES + 1), token=None)

    assert code(answer) == (400, "invalid_request")
    assert str(SMALL_BYTES) in answer.json["detail"]


@pytest.mark.parametrize("unit", [b"0,", b"[],", b"{},", b'"",', b'"\\\\",'])
async def test_a_body_of_very_many_small_things_is_not_even_parsed(
    site: Site, unit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(CreateSessionRequest, "__pydantic_validator__")
    answer = await site.ask("POST", "/sessions", b'{"code": "x", "files": [' + unit * (1 << 20) + b"0]}")

    assert code(answer) == (400, "invalid_request")
    assert "elements" in answer.json["detail"]


async def test_a_text_with_a_million_commas_is_one_thing(site: Site) -> None:
    answer = await site.ask("POST", "/sessions", {"code": "x", "files": {"a.csv": '"1,2"\n' * 1_000_000}})

    assert answer.status == 201
