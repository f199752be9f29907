"""Quotas on a whole server, used up by real programs in real sandboxes."""

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enclave import Enclave
from enclave.contracts.errors import PolicyForbids, QuotaExceeded, Unauthenticated
from enclave.contracts.identity import Credential
from enclave.contracts.sessions import Phase
from tests.identity.tokens import SECRET, issue_token

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

BURN = """
import time
while time.process_time() < 0.5:
    pass
"""
FETCH = """
import os, urllib.request
enclave.result(len(urllib.request.urlopen(os.environ["ENCLAVE_SVC_CRM"] + "/").read()))
"""
ANSWER = bytes(50_000)


@dataclass(frozen=True)
class Installation:
    """A server in a process of its own, its operator, and a developer in each of two orgs."""

    child: subprocess.Popen[bytes]
    operator: Credential
    one: Enclave
    other: Enclave

    def grant(self, org_id: str, **terms: Any) -> None:
        self.ask("PUT", f"{org_id}/terms", json.dumps(terms).encode())

    def used(self, org_id: str, quota: str) -> float:
        return float(self.ask("GET", f"{org_id}/usage")[quota]["used"])

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        url = f"{self.operator.base_url}/operator/orgs/{path}"
        headers = {"Authorization": f"Bearer {self.operator.api_key}"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=30) as answer:
            return json.loads(answer.read())


@contextmanager
def installed(home: Path) -> Iterator[Installation]:
    command = (sys.executable, "-m", "enclave.serve", "--home", str(home))
    settings = {"ENCLAVE_JWT_SECRET": SECRET, "ENCLAVE_EGRESS_PRIVATE": "127.0.0.1/32"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=os.environ | settings) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        where = Credential.model_validate_json(child.stdout.readline()).base_url
        operator = Credential.model_validate_json((home / "operator.json").read_bytes())
        tokens = [issue_token(orgId=org_id, role="owner") for org_id in ("org_a", "org_b")]
        with Enclave(where, api_key=tokens[0]) as one, Enclave(where, api_key=tokens[1]) as other:
            yield Installation(child, operator, one, other)
        child.stdin.close()
        child.wait(30)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_cpu_that_a_program_used_outlives_a_kill_of_the_server_and_shuts_its_org_alone(tmp_path: Path) -> None:
    with installed(tmp_path) as first:
        first.grant("default", quotas={"cpuSecondsPerDay": 0.4})
        usage = first.one.run(BURN, wait=30).result().usage
        assert usage.cpu_seconds is not None
        assert usage.cpu_seconds >= 0.4
        with pytest.raises(QuotaExceeded) as refused:
            first.one.run("pass")
        assert refused.value.quota == "cpuSecondsPerDay"
        assert first.other.run("pass", wait=30).result().exit_code == 0
        first.child.kill()
        first.child.wait(30)

    with installed(tmp_path) as again:
        assert again.used("org_a", "cpuSecondsPerDay") == usage.cpu_seconds
        with pytest.raises(QuotaExceeded):
            again.one.run("pass")
        again.grant("org_a", quotas={"cpuSecondsPerDay": 100})
        assert again.one.run("pass", wait=30).result().exit_code == 0


def test_one_org_at_its_limit_leaves_the_other_alone(tmp_path: Path) -> None:
    with installed(tmp_path) as server:
        server.grant("org_a", quotas={"concurrentSessions": 2})
        held = [server.one.run("import time; time.sleep(600)") for _ in range(2)]
        with pytest.raises(QuotaExceeded) as refused:
            server.one.run("pass")
        assert (refused.value.quota, refused.value.retry_after) == ("concurrentSessions", 1.0)
        for _ in range(5):
            assert server.other.run("pass", wait=30).result().exit_code == 0
        held[0].teardown()
        assert server.one.run("pass", wait=30).result().exit_code == 0
        held[1].teardown()


def test_bytes_that_a_program_fetched_are_counted_and_a_floor_keeps_it_from_fetching(
    tmp_path: Path, upstream: str
) -> None:
    with installed(tmp_path) as server:
        server.one.bindings.put("crm", url=upstream, bearer="secret-of-the-binding")
        server.grant("org_a", quotas={"egressBytesPerDay": 50_000})
        assert server.one.run(FETCH, bindings=["crm"], wait=30).result().result == len(ANSWER)
        assert 50_000 <= server.used("org_a", "egressBytesPerDay") < 52_000
        with pytest.raises(QuotaExceeded) as refused:
            server.one.run(FETCH, bindings=["crm"])
        assert refused.value.quota == "egressBytesPerDay"

        server.grant("org_a", floor={"egress": ["api.example.org"]})
        with pytest.raises(PolicyForbids) as forbidden:
            server.one.run(FETCH, bindings=["crm"])
        assert [problem.field for problem in forbidden.value.errors] == ["serviceBindings.0"]


def test_a_program_of_an_org_that_is_disabled_is_stopped(tmp_path: Path) -> None:
    with installed(tmp_path) as server:
        key = Credential.model_validate_json((tmp_path / "credentials.json").read_bytes())
        with Enclave(key.base_url, api_key=key.api_key) as mine:
            session = mine.run("import time; time.sleep(600)")
            next(iter(session.stream()))
            org_id = mine.get(session.id).org_id
            other = server.other.run("import time; time.sleep(600)")
            server.ask("POST", f"{org_id}/disable")
            with pytest.raises(Unauthenticated):
                mine.run("pass")
            server.ask("POST", f"{org_id}/enable")
            assert mine.get(session.id).phase is Phase.TORN_DOWN
            assert [event.actor for event in mine.audit(session.id)][-1] == "operator"
        assert server.other.get(other.id).phase in (Phase.PENDING, Phase.RUNNING)
        other.teardown()
