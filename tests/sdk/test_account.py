"""`Account` and a client that is signed in, blocking and awaited, against a server that plays recorded answers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enclave import Account, AsyncAccount, AsyncEnclave, Enclave
from enclave.contracts.errors import InvalidRequest, QuotaExceeded, Unauthenticated
from enclave.contracts.identity import Role, WhoAmI
from enclave.contracts.members import Done, Tokens
from enclave.contracts.orgs import Org
from enclave.contracts.wire import Page
from enclave.sdk.sign_in import SignIn, SignInFile
from tests.sdk.samples import NOW
from tests.sdk.scripted import Reply, ok, problem, scripted
from tests.sdk.test_sign_in import ENDED, sign_in

ME = WhoAmI(user_id="u", org_id="org_1", role=Role.ADMIN, scopes=())
ORG = Org(id="org_2", name="Two", role=Role.OWNER, created_at=NOW)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and nothing else configured."""
    for name in ("ENCLAVE_BASE_URL", "ENCLAVE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENCLAVE_HOME", str(tmp_path))
    return tmp_path


def tokens(number: int) -> Tokens:
    later = datetime.now(UTC) + timedelta(minutes=15)
    return Tokens(
        token=f"jwt-{number}", expires_at=later, refresh_token=f"er_1_{number}", org_id="org_1", role=Role.ADMIN
    )


def keep(value: SignIn) -> None:
    file = SignInFile()
    lock = file.claim()
    assert lock is not None
    file.keep(value)
    file.release(lock)


def kept() -> SignIn:
    found = SignInFile().read()
    assert found is not None
    return found


def test_what_an_account_keeps_a_client_takes_up() -> None:
    with scripted(ok(tokens(1)), ok(ME), ok(Done())) as server:
        with Account(server.base_url) as account:
            begun = account.login("ada@example.org", "correct horse", "org_1")
        with Enclave() as client:
            assert (client.base_url, client.whoami()) == (server.base_url, ME)
        with Account() as account:
            assert account.logout()

    assert (begun.email, begun.org_id, begun.role) == ("ada@example.org", "org_1", Role.ADMIN)
    assert [(asked.path, asked.headers.get("authorization")) for asked in server.asked] == [
        ("/login", None), ("/whoami", "Bearer jwt-1"), ("/logout", None),
    ]  # fmt: skip
    assert json.loads(server.asked[0].body) == {
        "email": "ada@example.org", "password": "correct horse", "orgId": "org_1",
    }  # fmt: skip
    assert SignInFile().read() is None


def test_the_async_twins_do_the_same() -> None:
    async def converse(site: str) -> None:
        async with AsyncAccount(site) as account:
            await account.join("ei_1_code", "correct horse")
        async with AsyncEnclave() as client:
            keep(kept().model_copy(update=ENDED))
            assert await client.whoami() == ME
        async with AsyncEnclave() as client:
            assert await client.whoami() == ME
            assert (await client.orgs.switch("org_2")).token == "jwt-3"
            assert [org async for org in client.orgs.list()] == [ORG]
            assert await client.orgs.create("Two") == ORG
        async with AsyncAccount() as account:
            await account.change_password("correct horse", "battery staple")
            assert await account.reset_password("eq_1_code", "correct horse") == Done()
            assert await account.logout()

    answers = (tokens(1), ME, tokens(2), ME, tokens(3), Page[Org](items=(ORG,)), ORG, tokens(4), Done(), Done())
    with scripted(*map(ok, answers)) as server:
        asyncio.run(converse(server.base_url))

    assert [(asked.path, asked.headers.get("authorization")) for asked in server.asked] == [
        ("/invitations/accept", None), ("/whoami", "Bearer jwt-1"), ("/token/refresh", None),
        ("/whoami", "Bearer jwt-2"), ("/token/switch", None), ("/orgs", "Bearer jwt-3"), ("/orgs", "Bearer jwt-3"),
        ("/password", "Bearer jwt-3"), ("/password/reset", None), ("/logout", None),
    ]  # fmt: skip


def test_a_refused_token_is_renewed_in_a_stream_and_in_a_list_too() -> None:
    refused = problem(401, "unauthenticated", "no")
    with scripted(refused, ok(tokens(2)), ok(Page[Org](items=(ORG,)))) as server:
        keep(sign_in(server.base_url))
        with Enclave() as client:
            assert list(client.orgs.list()) == [ORG]
    with scripted(refused, ok(tokens(2)), problem(404, "not_found", "gone")) as server:
        keep(sign_in(server.base_url))
        with Enclave() as client, pytest.raises(Exception, match="gone"):
            next(client.stream("ses_0123456789abcdefghijklmnop"))

    assert [asked.headers.get("authorization") for asked in server.asked] == ["Bearer jwt-1", None, "Bearer jwt-2"]


def test_a_key_is_no_sign_in_to_take_elsewhere() -> None:
    with Enclave("http://x", api_key="ek_1_s") as client, pytest.raises(Unauthenticated, match="`enclave login`"):
        client.orgs.switch("org_2")


def test_too_many_tries_say_how_long_to_wait() -> None:
    locked = problem(429, "quota_exceeded", "too many attempts", retryAfter=240)
    with scripted(locked) as server, Account(server.base_url) as account, pytest.raises(QuotaExceeded) as caught:
        account.login("ada@example.org", "wrong")

    assert (caught.value.retry_after, caught.value.quota) == (240, None)


@pytest.mark.parametrize("password", ["", "x" * 257])
def test_a_password_that_is_none_is_refused_here_and_not_repeated(password: str) -> None:
    with Account("http://127.0.0.1:1") as account, pytest.raises(InvalidRequest) as caught:
        account.login("ada@example.org", password)

    assert [problem.field for problem in caught.value.errors] == ["password"]
    assert "xxx" not in repr(caught.value.errors)


PROGRAM = "from enclave import Enclave\nwith Enclave() as client: client.whoami()"


def _answered(during: object, value: Tokens) -> Reply:
    """An answer before which something happens."""
    return Reply((during, *ok(value).pieces))  # type: ignore[arg-type]


@pytest.fixture
def programs() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Programs that a test starts, ended with it."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for program in started:
        program.kill()
        program.communicate()


def test_a_ctrl_c_during_a_renewal_does_not_lose_the_sign_in(programs: list["subprocess.Popen[bytes]"]) -> None:
    def interrupt() -> None:
        programs[0].send_signal(signal.SIGINT)

    with scripted(_answered(interrupt, tokens(2))) as server:
        keep(sign_in(server.base_url, **ENDED))
        programs.append(subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, env=os.environ))
        _, told = programs[0].communicate(timeout=30)

    assert b"KeyboardInterrupt" in told
    assert (kept().refresh_token, [asked.path for asked in server.asked]) == ("er_1_2", ["/token/refresh"])
    assert b"er_1" not in told


def test_nor_does_a_cancellation_or_a_deadline() -> None:
    async def converse(site: str) -> None:
        async with AsyncEnclave() as client:
            calls.append(asyncio.ensure_future(client.whoami()))
            loops.append(asyncio.get_running_loop())
            with pytest.raises(asyncio.CancelledError):
                await calls[0]

    calls: list[asyncio.Future[WhoAmI]] = []
    loops: list[asyncio.AbstractEventLoop] = []

    def cancel() -> None:
        asyncio.run_coroutine_threadsafe(_cancelled(calls[0]), loops[0]).result(10)

    with scripted(_answered(cancel, tokens(2))) as server:
        keep(sign_in(server.base_url, **ENDED))
        asyncio.run(converse(server.base_url))

    assert kept().refresh_token == "er_1_2"
    lock = SignInFile().claim()
    assert lock is not None
    SignInFile().release(lock)


async def _cancelled(call: "asyncio.Future[WhoAmI]") -> None:
    call.cancel()
