"""Signing in and all that follows from it, by the command line and by the SDK, against the real server."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enclave import Account, AsyncEnclave, Enclave, Operator
from enclave.contracts.errors import Forbidden, PolicyForbids, QuotaExceeded, Unauthenticated
from enclave.contracts.identity import Credential
from enclave.sdk.sign_in import SignIn, SignInFile

pytest.importorskip("enclave.system", reason="the server is not there yet")
pytestmark = [pytest.mark.slow, pytest.mark.sandbox]

PASSWORD = "correct horse battery staple"
ENDED = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class User:
    """Somebody at a machine of their own: nothing but a home."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ENCLAVE_")}
        return clean | {"ENCLAVE_HOME": str(self.home)}

    def __call__(self, *args: str, stdin: str = "", **environment: str) -> Ran:
        ran = subprocess.run(
            [sys.executable, "-m", "enclave", *args],
            env=self.environment | environment, input=stdin, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "Traceback" not in ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    @property
    def file(self) -> SignInFile:
        return SignInFile(self.home)

    def kept(self) -> SignIn:
        found = self.file.read()
        assert found is not None
        return found

    def keep(self, **changes: Any) -> None:
        lock = self.file.claim()
        assert lock is not None
        self.file.keep(self.kept().model_copy(update=changes))
        self.file.release(lock)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Credential, Path]]:
    """A server of our own, and its home."""
    from enclave.serve import embedded

    home = tmp_path_factory.mktemp("server")
    with embedded(home) as credential:
        yield credential, home


@pytest.fixture
def site(server: tuple[Credential, Path]) -> str:
    return server[0].base_url


@pytest.fixture
def operator(server: tuple[Credential, Path]) -> Iterator[Operator]:
    found = Credential.model_validate_json((server[1] / "operator.json").read_bytes())
    with Operator(found.base_url, key=found.api_key) as client:
        yield client


@pytest.fixture
def ada(operator: Operator, site: str, tmp_path: Path, request: pytest.FixtureRequest) -> User:
    """Somebody who was just made the owner of an org, and is signed in to it."""
    user = User(tmp_path / "ada")
    code = operator.found("Ada's".replace("'", ""), _email(request)).invitation.code
    joined = user("member", "join", code, site, stdin=f"{PASSWORD}\n")
    assert (joined.code, joined.err) == (0, "")
    return user


def _email(request: pytest.FixtureRequest) -> str:
    return f"{re.sub('[^a-z]', '', request.node.name)[:60]}@example.org"


def test_from_an_invitation_to_signing_out(ada: User, site: str, request: pytest.FixtureRequest) -> None:
    out = ada("logout")
    nobody = ada("whoami")
    again = ada("logout")
    begun = ada("login", "--email", _email(request), "--json", site, stdin=f"{PASSWORD}\n")
    me = json.loads(ada("whoami", "--json").out)
    ran = ada("run", "-c", "print('as ada')")
    made = json.loads(ada("key", "create", "--name", "n", "--scope", "sessions:read", "--json").out)
    revoked = ada("key", "revoke", made["id"])

    assert (out.code, out.out, out.err) == (0, "", f"signed out of {site}\n")
    assert (nobody.code, nobody.err.count("\n")) == (70, 1)
    assert (again.code, again.err) == (0, "nobody was signed in\n")
    told = json.loads(begun.out)
    assert told == {"baseUrl": site, "email": _email(request), "orgId": me["orgId"], "role": "owner"}
    assert (me["role"], me["userId"][:4], "sessions:read" in me["scopes"]) == ("owner", "usr_", True)
    assert (ran.code, ran.out) == (0, "as ada\n")
    assert (made["apiKey"][:3], revoked.out) == ("ek_", f"{made['id']}\n")


def test_a_sign_in_comes_before_the_key_of_the_machine_and_after_one_that_is_named(
    ada: User, server: tuple[Credential, Path]
) -> None:
    (ada.home / "credentials.json").write_bytes((server[1] / "credentials.json").read_bytes())
    signed_in = json.loads(ada("whoami", "--json").out)
    named = json.loads(ada("whoami", "--json", ENCLAVE_API_KEY=server[0].api_key).out)
    ada("logout")
    left = json.loads(ada("whoami", "--json").out)

    assert signed_in["userId"].startswith("usr_")
    assert named["userId"] == left["userId"] != signed_in["userId"]


def test_a_program_that_is_run_while_signed_in_elsewhere_is_not_run_here(ada: User) -> None:
    ada.keep(base_url="http://127.0.0.1:1")
    ran = ada("run", "-c", "print('here')")

    assert (ran.code, ran.out) == (70, "")
    assert "no Enclave server at http://127.0.0.1:1" in ran.err


def test_signing_out_of_a_server_that_is_gone_forgets_and_says_so(ada: User) -> None:
    ada.keep(base_url="http://127.0.0.1:1")
    out = ada("logout")

    assert (out.code, ada.file.path.exists()) == (70, False)
    assert out.err.splitlines()[0].startswith("it is forgotten here, but the server was not told")


RACER = """
import sys
from enclave import Enclave
with Enclave() as client:
    print("ready", flush=True)
    sys.stdin.readline()
    print(client.whoami().org_id)
    print(client.whoami().org_id)
"""


@pytest.mark.parametrize("changed", [{"expires_at": ENDED}, {"token": "not-a-token"}], ids=["ended", "refused"])
def test_eight_processes_that_renew_at_once_all_go_on(ada: User, changed: dict[str, Any], operator: Operator) -> None:
    org = ada.kept().org_id
    ada.keep(**changed)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER], env=ada.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(8)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    ended = [(*racer.communicate(timeout=50), racer.returncode) for racer in racers]

    assert ended == [(f"{org}\n{org}\n", "", 0)] * 8
    ada.keep(expires_at=ENDED)
    assert ada("whoami").code == 0
    told = [event["type"] for event in json.loads(ada("audit", "--json").out)]
    assert "refresh_reused" not in told


def test_threads_and_tasks_that_renew_at_once_all_go_on(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLAVE_HOME", str(ada.home))
    monkeypatch.delenv("ENCLAVE_API_KEY", raising=False)
    monkeypatch.delenv("ENCLAVE_BASE_URL", raising=False)
    found: list[str] = []

    async def tasks() -> None:
        async with AsyncEnclave() as client, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(client.whoami()).add_done_callback(lambda done: found.append(done.result().org_id))

    ada.keep(expires_at=ENDED)
    with Enclave() as client:
        threads = [threading.Thread(target=lambda: found.append(client.whoami().org_id)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ada.keep(expires_at=ENDED)
    asyncio.run(tasks())

    assert found == [ada.kept().org_id] * 16


def test_what_a_crash_at_the_worst_moment_costs_is_signing_in_again(
    ada: User, site: str, request: pytest.FixtureRequest
) -> None:
    ada.keep(expires_at=ENDED)
    before = ada.kept()
    assert ada("whoami").code == 0
    # As if the new refresh token had not come to the disk.
    ada.keep(**dict(before))
    over = ada("whoami")
    again = ada("login", "--email", _email(request), stdin=f"{PASSWORD}\n")

    assert (over.code, over.out) == (70, "")
    assert over.err == f"error: the sign-in at {site} is over: run `enclave login`; `enclave logout` forgets it\n"
    assert (again.code, ada("whoami").code) == (0, 0)


def test_orgs_are_listed_made_and_switched_to(ada: User) -> None:
    first = ada.kept().org_id
    made = ada("org", "create", "Second one")
    second = made.out.strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVE_HOME", str(ada.home))
        patch.delenv("ENCLAVE_API_KEY", raising=False)
        running = Enclave()
    switched = ada("org", "switch", second)
    listed = {org["id"]: (org["name"], org["role"]) for org in json.loads(ada("org", "list", "--json").out)}
    table = ada("org", "list").out.splitlines()
    stranger = ada("org", "switch", "org_nobodys")

    assert made.code == 0
    assert (switched.code, json.loads(ada("whoami", "--json").out)["orgId"]) == (0, second)
    assert listed == {first: ("Adas", "owner"), second: ("Second one", "owner")}
    assert (table[0].split(), len(table)) == (["ORG", "NAME", "ROLE", "CREATED"], 3)
    assert (stranger.code, ada.kept().org_id, ada("whoami").code) == (70, second, 0)
    # A program that runs does not move to another org by itself.
    running._driver.signed._sign_in = running._driver.signed._sign_in.model_copy(update={"expires_at": ENDED})
    with running, pytest.raises(Unauthenticated, match="replaced"):
        running.whoami()


def test_passwords_are_changed_and_set_anew(
    ada: User, operator: Operator, site: str, request: pytest.FixtureRequest
) -> None:
    email, second = _email(request), "another correct horse"
    changed = ada("password", stdin=f"{PASSWORD}\n{second}\n")
    still = ada("whoami")
    wrong = ada("password", stdin=f"{PASSWORD}\n{second}\n")
    short = ada("password", stdin=f"{second}\nshort\n")
    code = operator.reset_password(email).code
    anew = ada("password", "--reset", stdin=f"{code}\nyet another horse\n")
    twice = ada("password", "--reset", stdin=f"{code}\nyet another horse\n")
    ended = ada("login", "--email", email, site, stdin=f"{second}\n")
    begun = ada("login", "--email", email, site, stdin="yet another horse\n")

    assert (changed.code, still.code, wrong.code, short.code) == (0, 0, 2, 2)
    assert (anew.code, twice.code, twice.err) == (0, 70, "error: the code passes no more, or never did\n")
    assert (ended.code, ended.err) == (70, "error: the email or the password is wrong\n")
    assert begun.code == 0
    everything = "".join(ran.out + ran.err for ran in (changed, wrong, short, anew, twice, ended, begun))
    assert not any(secret in everything for secret in (PASSWORD, second, "yet another", code))


def test_invitations_are_listed_and_taken_back(ada: User, site: str, tmp_path: Path) -> None:
    made = json.loads(ada("member", "invite", "bob@example.org", "--role", "viewer", "--json").out)
    listed = json.loads(ada("member", "invitations", "--json").out)
    table = ada("member", "invitations").out.splitlines()[1].split()
    withdrawn = ada("member", "withdraw", made["id"])
    late = User(tmp_path / "bob")("member", "join", "-", site, stdin=f"{made['code']}\n{PASSWORD}\n")

    assert [one["id"] for one in listed] == [made["id"]]
    assert "code" not in listed[0]
    assert table[:3] == [made["id"], "bob@example.org", "viewer"]
    assert (withdrawn.out, json.loads(ada("member", "invitations", "--json").out)) == (f"{made['id']}\n", [])
    assert (late.code, late.err) == (
        70, "error: the code passes no more, or never did, or the password is not the account's\n",
    )  # fmt: skip
    assert not (tmp_path / "bob" / "sign-in.json").exists()


def test_an_org_narrows_its_policy_and_sees_what_it_uses(ada: User, operator: Operator) -> None:
    org = ada.kept().org_id
    operator.put_terms(
        org, {"floor": {"limits": {"pids": 32}}, "quotas": {"concurrentSessions": 4, "storedBytes": 1048576}}
    )
    put = ada("policy", "set", "-", stdin='{"limits": {"memoryMiB": 128}, "egress": []}')
    shown = json.loads(ada("policy", "show", "--json").out)
    table = {line.split("  ")[0]: line.split()[-3:] for line in ada("policy", "show").out.splitlines()[1:]}
    bad = ada("policy", "set", "-", stdin='{"limits": {"memory": 1}}')
    used = [line.strip() for line in ada("usage").out.splitlines()]
    meters = json.loads(ada("usage", "--json").out)
    forbidden = ada("run", "--allow", "example.org", "-c", "pass")

    assert put.code == 0
    assert shown["effective"]["limits"]["pids"] == 32
    assert (table["memory (MiB)"], table["pids"], table["egress"]) == (
        ["-", "128", "128"], ["32", "-", "32"], ["-", "none", "none"],
    )  # fmt: skip
    assert (bad.code, "limits.memory" in bad.err) == (2, True)
    assert re.match(r"concurrent sessions +░{20} +0% +0 of 4$", used[1])
    assert next(line for line in used if line.startswith("stored bytes")).endswith("0%  0 B of 1 MiB")
    assert next(line for line in used if line.startswith("egress")).endswith("0 B, no quota")
    assert (meters["concurrentSessions"], used[-1][:11]) == ({"used": 0.0, "limit": 4.0}, "days end at")
    assert (forbidden.code, "egress" in forbidden.err) == (70, True)
    assert ada("policy", "set", str(ada.home / "none")).code == 2


def test_refusals_come_through_as_what_they_are(ada: User, operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLAVE_HOME", str(ada.home))
    monkeypatch.delenv("ENCLAVE_API_KEY", raising=False)
    operator.put_terms(ada.kept().org_id, {"floor": {"egress": []}, "quotas": {"creates_per_minute": 1}})
    with Enclave() as client:
        with pytest.raises(PolicyForbids):
            client.run("pass", allow=["203.0.113.1"])
        client.run("pass", wait=20)
        with pytest.raises(QuotaExceeded) as caught:
            client.run("pass")
        assert client.usage().creates_per_minute.limit == 1
        assert client.policy.put({"templates": ()}).effective.templates == ()
    told = ada("run", "-c", "pass")

    assert (caught.value.quota, 0 < (caught.value.retry_after or 0) <= 60) == ("createsPerMinute", True)
    assert (told.code, bool(re.search(r"; try again in (1 min|[0-9]+ s)\n$", told.err))) == (70, True)


def test_the_operator_acts_in_no_org_and_on_all(
    ada: User, operator: Operator, server: tuple[Credential, Path], tmp_path: Path
) -> None:
    at = User(server[1])
    org = ada.kept().org_id
    listed = {one["id"]: one["disabledAt"] for one in json.loads(at("operator", "orgs", "--json").out)}
    table = at("operator", "orgs").out.splitlines()
    key = json.loads(ada("key", "create", "--name", "k", "--json").out)
    code = at("operator", "found", "Third", "eve@example.org")
    terms = at("operator", "terms", "set", org, "-", stdin='{"quotas": {"concurrentSessions": 7}}')
    shown = at("operator", "terms", "show", org).out
    default = json.loads(at("operator", "terms", "show", "--json").out)
    used = json.loads(at("operator", "usage", org, "--json").out)
    bars = at("operator", "usage", org).out
    revoked = at("operator", "revoke-key", key["id"])
    reset = at("operator", "reset-password", "eve@example.org")
    disabled = at("operator", "disable", org)
    refused = ada("whoami")
    enabled = at("operator", "enable", org, "--json")

    assert listed[org] is None
    assert (table[0].split(), any(org in line for line in table)) == (["ORG", "NAME", "CREATED", "DISABLED"], True)
    assert (code.out[:3], "eve@example.org" in code.err) == ("ei_", True)
    assert (terms.code, "quota: concurrent sessions" in shown) == (0, True)
    assert default["quotas"]["concurrentSessions"] is None
    assert (used["concurrentSessions"]["limit"], "0 of 7" in bars) == (7, True)
    assert (revoked.out, reset.code) == (f"{key['id']}\n", 70)
    assert (disabled.out, refused.code) == (f"{org}\n", 70)
    assert (json.loads(enabled.out)["disabledAt"], ada("whoami").code) == (None, 0)


def test_the_operators_credential_is_for_the_operator(
    ada: User, server: tuple[Credential, Path], site: str, operator: Operator
) -> None:
    none = ada("operator", "orgs")
    path = ada.home / "operator.json"
    path.write_bytes((server[1] / "operator.json").read_bytes())
    path.chmod(0o644)
    open_to_all = ada("operator", "orgs")
    path.chmod(0o600)
    elsewhere = ada("operator", "orgs", ENCLAVE_BASE_URL="http://127.0.0.1:1")
    key = Credential.model_validate_json(path.read_bytes()).api_key
    path.unlink()
    by_environment = ada("operator", "orgs", ENCLAVE_OPERATOR_KEY=key, ENCLAVE_BASE_URL=site)

    assert (none.code, "ENCLAVE_OPERATOR_KEY" in none.err) == (70, True)
    assert (open_to_all.code, "others can read" in open_to_all.err) == (70, True)
    assert (elsewhere.code, "no operator's credential for http://127.0.0.1:1" in elsewhere.err) == (70, True)
    assert by_environment.code == 0
    assert key not in repr(operator) + repr(operator._driver) + repr(operator._api)
    with Enclave(site, api_key=key) as client, pytest.raises(Forbidden):
        client.keys.create("k")
    with Operator(site, key=server[0].api_key) as other, pytest.raises(Forbidden):
        list(other.orgs())


def test_too_many_tries_say_how_long_to_wait(site: str, tmp_path: Path) -> None:
    stranger = User(tmp_path / "stranger")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVE_HOME", str(stranger.home))
        for _ in range(5):
            with Account(site) as account, pytest.raises(Unauthenticated):
                account.login("locked@example.org", "wrong")
    locked = stranger("login", "--email", "locked@example.org", site, stdin="wrong\n")

    assert (locked.code, locked.err.count("\n")) == (70, 1)
    assert re.search(r"; try again in ([0-9]+ (min|s) ?)+$", locked.err.strip())


@pytest.mark.parametrize(
    ("args", "stdin", "code", "told"),
    [
        (("login", "--email", "a@example.org", "http://127.0.0.1:1"), "x\n", 70, "no Enclave server at"),
        (("login", "--email", "a@example.org"), "", 2, "nothing was given"),
        (("login", "--email", "a@example.org"), "\n", 2, "nothing was given"),
        (("login", "--email", "a@example.org"), "x" * 300 + "\n", 2, "password"),
        (("login",), "x\n", 2, "Email is needed"),
        (("login", "--email", "a@example.org", "ftp://x"), "x\n", 2, "the base URL must look like"),
        (("login", "--email", "a@example.org", "--password", "x"), "", 2, "No such option"),
        (("member", "join", "ei_x"), "", 2, "nothing was given"),
        (("password",), "x\ny\n", 70, "nobody is signed in"),
        (("org", "list"), "", 70, "`enclave login`"),
        (("org", "switch", "x"), "", 70, "`enclave login`"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path: Path, args: tuple[str, ...], stdin: str, code: int, told: str) -> None:
    ran = User(tmp_path)(*args, stdin=stdin)

    assert (ran.code, ran.out) == (code, "")
    assert told in " ".join(ran.err.split())
    assert "xxx" not in ran.err
    assert not (tmp_path / "sign-in.json").exists()


def test_a_file_that_is_damaged_or_open_to_others_is_refused_and_put_right(
    ada: User, request: pytest.FixtureRequest
) -> None:
    site = ada.kept().base_url
    ada.file.path.chmod(0o644)
    open_to_all = ada("whoami")
    run = ada("run", "-c", "print(1)")
    ada.file.path.write_text('{"token": "jwt-secret"')
    ada.file.path.chmod(0o600)
    damaged = ada("whoami")
    again = ada("login", "--email", _email(request), site, stdin=f"{PASSWORD}\n")
    mode = stat.S_IMODE(ada.file.path.stat().st_mode)
    ada.file.path.write_text("{")
    forgotten = ada("logout")

    assert (open_to_all.code, "others can read" in open_to_all.err) == (70, True)
    assert (run.code, run.out) == (70, "")
    assert (damaged.code, damaged.err.count("\n"), "jwt-secret" in damaged.err) == (70, 1, False)
    assert (again.code, oct(mode), forgotten.code, ada.file.path.exists()) == (0, "0o600", 0, False)


class Terminal:
    """A command on a terminal."""

    def __init__(self, user: User, *args: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "enclave", *args], user.environment)
        self.seen = b""

    def until(self, text: bytes) -> None:
        while text not in self.seen:
            self.seen += os.read(self.fd, 4096)

    def say(self, text: bytes) -> None:
        os.write(self.fd, text)

    def end(self) -> int:
        try:
            while data := os.read(self.fd, 4096):
                self.seen += data
        except OSError:
            pass  # EIO is how a terminal ends
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_password_is_asked_for_and_not_shown(ada: User, request: pytest.FixtureRequest) -> None:
    terminal = Terminal(ada, "login")
    terminal.until(b"Email: ")
    terminal.say(f"{_email(request)}\n".encode())
    terminal.until(b"Password of ")
    terminal.say(f"{PASSWORD}\n".encode())

    assert terminal.end() == 0
    assert b"signed in to" in terminal.seen
    assert PASSWORD.encode() not in terminal.seen


def test_a_new_password_is_asked_for_twice(ada: User) -> None:
    terminal = Terminal(ada, "password")
    for asked, given in ((b"Password: ", PASSWORD), (b"New password: ", "a new password"), (b"again: ", "a mistake")):
        terminal.until(asked)
        terminal.say(f"{given}\n".encode())

    assert terminal.end() == 2
    assert b"not the same" in terminal.seen
    assert ada("password", stdin=f"{PASSWORD}\na new password\n").code == 0


def test_ctrl_c_while_the_server_thinks_is_no_traceback(ada: User) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        terminal = Terminal(ada, "login", "--email", "a@example.org", address)
        terminal.until(b"Password of ")
        terminal.say(b"x\n")
        connection, _ = silent.accept()
        connection.recv(100)
        terminal.say(b"\x03")
        terminal.until(b"^C")
        connection.close()
        code = terminal.end()

    assert (code, b"Traceback" in terminal.seen) == (130, False)
    assert ada("whoami").code == 0


@pytest.mark.parametrize("asked", [b"Email: ", b"Password of "])
def test_ctrl_c_at_a_prompt_is_one_line_and_130(ada: User, asked: bytes) -> None:
    terminal = Terminal(ada, "login", *(() if asked == b"Email: " else ("--email", "a@example.org")))
    terminal.until(asked)
    terminal.say(b"\x03")

    assert terminal.end() == 128 + signal.SIGINT
    assert b"stopped; nothing was sent" in terminal.seen
    assert b"Traceback" not in terminal.seen
