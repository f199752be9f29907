"""What usage, policies and terms look like, against a server that plays recorded answers."""

import io
import json
import sys

import pytest

from enclave.cli import show
from enclave.contracts.policy import RequestedLimits
from enclave.contracts.tenancy import Meter, OrgPolicy, OrgTerms, OrgUsage, Quotas
from tests.cli.conftest import Command
from tests.sdk.samples import NOW
from tests.sdk.scripted import ok, problem, scripted

USAGE = OrgUsage(
    concurrent_sessions=Meter(used=5, limit=20),
    creates_per_minute=Meter(used=80, limit=100),
    cpu_seconds_per_day=Meter(used=7300.5, limit=3600),
    egress_bytes_per_day=Meter(used=1, limit=2**30),
    stored_bytes=Meter(used=3 * 2**20, limit=None),
    resets_at=NOW,
)


def test_usage_is_bars_and_shares(enclave: Command) -> None:
    with scripted(ok(USAGE), ok(USAGE)) as server:
        bars = enclave(server.base_url, "usage")
        document = enclave(server.base_url, "usage", "--json")

    assert [line.split("  ", 1)[0].strip() for line in bars.out.splitlines()] == [
        "QUOTA", "concurrent sessions", "creates per minute", "cpu seconds per day", "egress bytes per day",
        "stored bytes", "days end at 2026-11-24 12:00:00 UTC",
    ]  # fmt: skip
    lines = [" ".join(line.split()) for line in bars.out.splitlines()]
    assert lines[1].endswith(f"{'█' * 5}{'░' * 15} 25% 5 of 20")
    assert lines[2].endswith(f"{'█' * 16}{'░' * 4} 80% 80 of 100")
    assert lines[3].endswith(f"{'█' * 20} 100% 7300.5 s of 3600.0 s")
    assert lines[4].endswith(f"█{'░' * 19} 0% 1 B of 1 GiB")
    assert lines[5] == "stored bytes 3 MiB, no quota"
    assert json.loads(document.out) == USAGE.model_dump(mode="json")


def test_a_terminal_without_such_letters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    show.usage(USAGE)
    printed.flush()

    assert f"{'#' * 5}{'.' * 15}".encode() in printed.buffer.getvalue()


def test_terms_are_all_that_is_granted(enclave: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLAVE_OPERATOR_KEY", "eo_1_secret")
    floor = OrgPolicy(limits=RequestedLimits(memory_mib=512), egress=(), deny=("*.internal.example",))
    terms = OrgTerms(floor=floor, quotas=Quotas(stored_bytes=2**31, cpu_seconds_per_day=60))
    with scripted(ok(terms)) as server:
        table = enclave(server.base_url, "operator", "terms", "show", "org_1").out

    rows = [" ".join(line.split()) for line in table.splitlines()]
    assert {
        "floor: memory (MiB) 512", "floor: pids -", "floor: egress none", "floor: deny *.internal.example",
        "floor: templates -", "quota: stored bytes 2 GiB", "quota: cpu seconds per day 60.0 s",
        "quota: concurrent sessions -",
    } <= set(rows)  # fmt: skip
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer eo_1_secret"]


def test_a_quota_that_is_used_up_says_when_to_come_back(enclave: Command) -> None:
    full = problem(429, "quota_exceeded", "too many", retryAfter=61.2, quota="creates_per_minute")
    with scripted(full, full) as server:
        ran = enclave(server.base_url, "run", "-c", "pass")

    assert (ran.code, ran.err) == (70, "error: too many; try again in 1 min 2 s\n")
