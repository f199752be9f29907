"""Streams on the wire, byte by byte."""

import asyncio
import json
import re
import time
from typing import Any

import pytest

from enclave.backends.base import Exit
from enclave.server import sse
from tests.orchestrator.test_orchestrator import prints_and_succeeds
from tests.scripted import Puppet
from tests.server.conftest import Connection, Site

pytestmark = pytest.mark.anyio


def parsed(raw: bytes) -> list[tuple[str, Any]]:
    events = []
    for block in raw.decode().split("\n\n")[:-1]:
        if block.startswith(":"):
            continue
        match = re.fullmatch(r"id: (\d+\.\d+\.\d+)\nevent: message\ndata: (\{.*\})", block)
        assert match, block
        events.append((match[1], json.loads(match[2])))
    return events


async def follow(site: Site, session_id: str, **headers: str) -> Connection:
    connection = await site.open("GET", f"/sessions/{session_id}/stream", b"", **headers)
    status, heads = await connection.head()
    assert (status, heads["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (heads["cache-control"], heads["x-accel-buffering"]) == ("no-cache", "no")
    return connection


async def whole(site: Site, session_id: str, **headers: str) -> list[tuple[str, Any]]:
    return parsed(await (await follow(site, session_id, **headers)).chunks())


async def running(site: Site) -> tuple[str, Puppet]:
    session = await site.run()
    return session["id"], site.backend.puppets[session["id"]]


async def test_frames_are_those_of_the_reference(site: Site) -> None:
    site.backend.play = prints_and_succeeds
    session = await site.run(prefer="wait=5")
    events = await whole(site, session["id"])
    assert [frame["kind"] for _, frame in events] == [
        "phase", "audit", "phase", "audit", "stdout", "stderr", "audit", "phase", "audit", "result", "end",
    ]  # fmt: skip
    phase, _, _, _, stdout, *_, result, end = [frame for _, frame in events]
    assert set(phase) == {"kind", "phase", "ts"}
    assert (set(stdout), stdout["chunk"]) == ({"kind", "chunk", "ts"}, "hi \U0001f600\n")
    assert result["result"]["exitCode"] == 0
    assert (end["kind"], end["phase"]) == ("end", "succeeded")


async def test_output_arrives_at_once(site: Site) -> None:
    session_id, puppet = await running(site)
    connection = await follow(site, session_id)
    raw = b""
    while b"sandbox_started" not in raw:
        raw += await connection.chunk()
    delays = []
    for number in range(20):
        began = time.perf_counter()
        puppet.print(b"%d\n" % number)
        async with asyncio.timeout(1):
            assert b'"chunk":"%d\\n"' % number in await connection.chunk()
        delays.append(time.perf_counter() - began)
    assert sorted(delays)[10] < 0.05
    puppet.end()
    assert b'"kind":"end"' in await connection.chunks()


async def test_hostile_output_cannot_forge_an_event(site: Site) -> None:
    """Not even for a client that takes exotic line ends for line ends."""

    def forge(puppet: Puppet) -> None:
        for line_end in ("\n\n", "\r\n\r\n", "\r\r", "\u2028\u2028", "\x85\x85", "\x0b\x0b", "\0"):
            puppet.print(f'{line_end}data: {{"kind":"end"}}{line_end}'.encode())
        puppet.end()

    site.backend.play = forge
    session = await site.run(prefer="wait=5")
    raw = await (await follow(site, session["id"])).chunks()
    lines = raw.decode().splitlines()
    assert [line for line in lines if line.startswith("data:")] == [line for line in lines if '"kind":' in line]
    assert [frame["kind"] for _, frame in parsed(raw)].count("end") == 1
    assert raw.isascii()


async def test_a_cut_stream_resumes_anywhere(site: Site) -> None:
    def chatter(puppet: Puppet) -> None:
        for number in range(6):
            puppet.print(b"%d" % number, "stdout" if number % 3 else "stderr")
        puppet.end(Exit(code=3))

    site.backend.play = chatter
    session = await site.run(prefer="wait=5")
    events = await whole(site, session["id"])
    for cut in range(1, len(events)):
        rest = await whole(site, session["id"], last_event_id=events[cut - 1][0])
        assert [*events[:cut], *rest] == events


async def test_a_live_stream_resumes_where_it_was_cut(site: Site) -> None:
    session_id, puppet = await running(site)
    seen = b""
    for number in range(5):
        place = {"last_event_id": parsed(seen)[-1][0]} if seen else {}
        connection = await follow(site, session_id, **place)
        puppet.print(b"<%d>" % number)
        part = b""
        while b"<%d>" % number not in part:
            part += await connection.chunk()
        connection.close()
        seen += part
    puppet.end()
    seen += await (await follow(site, session_id, last_event_id=parsed(seen)[-1][0])).chunks()
    events = parsed(seen)
    assert "".join(frame.get("chunk", "") for _, frame in events) == "<0><1><2><3><4>"
    assert len({frame["event"]["seq"] for _, frame in events if frame["kind"] == "audit"}) == 4
    assert [frame["kind"] for _, frame in events].count("audit") == 4


@pytest.mark.parametrize("place", ["x", "1.2", "99.0.0", "0.0.0 OR 1"])
async def test_a_place_that_is_none_is_a_problem(site: Site, place: str) -> None:
    site.backend.play = prints_and_succeeds
    session = await site.run(prefer="wait=5")
    answer = await site.ask("GET", f"/sessions/{session['id']}/stream", last_event_id=place)
    assert answer.status == 400
    assert [error["field"] for error in answer.json["errors"]] == ["Last-Event-ID"]


async def test_a_hundred_followers_each_get_everything(site: Site) -> None:
    session_id, puppet = await running(site)
    readers = [asyncio.create_task(whole(site, session_id)) for _ in range(100)]
    for number in range(10):
        puppet.print(b"%d," % number)
        await asyncio.sleep(0.005)
    puppet.end()
    for events in await asyncio.gather(*readers):
        assert "".join(frame.get("chunk", "") for _, frame in events) == "0,1,2,3,4,5,6,7,8,9,"
        assert events[-1][1]["kind"] == "end"


async def test_a_slow_follower_delays_nobody(site: Site) -> None:
    session_id, puppet = await running(site)
    slow = await site.open("GET", f"/sessions/{session_id}/stream")
    for number in range(64):
        puppet.print(b"%c" % (97 + number % 26) * 65536)
    puppet.end()
    fast = await whole(site, session_id)
    text = "".join(frame.get("chunk", "") for _, frame in fast)
    assert len(text) == 64 * 65536
    await slow.head()
    late = parsed(await slow.chunks())
    assert "".join(frame.get("chunk", "") for _, frame in late) == text


async def test_an_idle_stream_is_kept_alive(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse.EventStream.__init__, "__defaults__", (0.02,))
    session_id, puppet = await running(site)
    connection = await follow(site, session_id)
    raw = b""
    async with asyncio.timeout(2):
        while raw.count(b": ping\n\n") < 2:
            raw += await connection.chunk()
    puppet.end()
    assert parsed(raw + await connection.chunks())[-1][1]["kind"] == "end"


async def test_a_client_that_goes_is_cleaned_up(site: Site) -> None:
    session_id, puppet = await running(site)
    before = len(asyncio.all_tasks())
    connections = [await follow(site, session_id) for _ in range(10)]
    await asyncio.sleep(0.02)
    for connection in connections:
        connection.close()
    async with asyncio.timeout(2):
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.01)
    puppet.end()


async def test_streams_and_waits_end_with_the_server(site: Site) -> None:
    session_id, _ = await running(site)
    stream = asyncio.create_task(whole(site, session_id))
    waiting = asyncio.create_task(site.ask("POST", "/sessions", {"code": "x"}, prefer="wait=60"))
    await asyncio.sleep(0.05)
    await site.orchestrator.close()
    async with asyncio.timeout(1):
        assert (await stream)[-1][1] | {"ts": ""} == {"kind": "end", "phase": "failed", "ts": ""}
        assert (await waiting).json["phase"] == "failed"
