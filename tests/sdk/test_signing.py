"""How a sign-in is made, renewed and ended: the steps alone, given what they are told. Nothing here does any I/O."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from enclave.contracts.errors import ConnectionFailed, Forbidden, InvalidRequest, Unauthenticated, Unavailable
from enclave.contracts.identity import Role, WhoAmI
from enclave.contracts.members import ChangePassword, Login, Tokens
from enclave.sdk.flow import Api
from enclave.sdk.sign_in import Held, SignIn
from enclave.sdk.signing import CLAIM_SECONDS, POLL_SECONDS, Signed, Signing
from enclave.sdk.step import Answer, Call, Claim, Deliver, Flow, Keep, Lost, Pause, Reply, Whole, advance
from tests.sdk.test_sign_in import ENDED, SITE, sign_in

API = Api(SITE, retry=())
SIGNING = Signing(API)
LATER = datetime.now(UTC) + timedelta(minutes=15)
TOKENS = Tokens(token="jwt-2", expires_at=LATER, refresh_token="er_1_two", org_id="org_2", role=Role.OWNER)
GIVEN = Answer(200, TOKENS.model_dump_json().encode())
REFUSED = Answer(401, b"{}")
ME = Answer(200, WhoAmI(user_id="u", org_id="org_1", role=Role.ADMIN, scopes=()).model_dump_json().encode())


class Machine:
    """Performs the steps of a flow: the sign-in that is kept, the server's answers, and all steps as they came."""

    def __init__(self, held: Held | None, *answers: Reply) -> None:
        self.held = held
        self.answers = list(answers)
        self.steps: list[Any] = []

    def run(self, flow: Flow[Any]) -> Any:
        delivered, reply = None, None
        while (step := advance(flow, reply)) is not None:
            self.steps.append(step)
            reply = self.run(step.flow) if isinstance(step, Whole) else self._reply(step)
            delivered = step.item if isinstance(step, Deliver) else delivered
        return delivered

    def _reply(self, step: Any) -> Reply:
        if isinstance(step, Claim):
            return self.held
        if isinstance(step, Keep):
            self.held = Held(step.sign_in)
        return self.answers.pop(0) if isinstance(step, Call) else None

    @property
    def asked(self) -> list[tuple[str, str | None]]:
        """What the server was asked, and with which token."""
        return [(step.path, step.bearer) for step in self.steps if isinstance(step, Call)]

    @property
    def kept(self) -> SignIn:
        assert self.held is not None
        assert self.held.sign_in is not None
        return self.held.sign_in


def _order(machine: Machine) -> list[object]:
    names = {Call: "ask", Keep: "keep", Claim: "claim", Pause: "pause"}
    return [names[type(step)] for step in machine.steps if type(step) in names]


def test_a_token_that_holds_is_used_as_it_is() -> None:
    machine = Machine(Held(sign_in()), ME)
    machine.run(Signed(SIGNING, sign_in()).under(API.whoami()))

    assert machine.asked == [("/whoami", "jwt-1")]
    assert _order(machine) == ["ask"]


def test_one_that_is_over_is_renewed_and_what_is_new_is_kept_before_it_is_used() -> None:
    old = sign_in(**ENDED)
    machine = Machine(Held(old), GIVEN, ME)
    machine.run(Signed(SIGNING, old).under(API.whoami()))

    assert machine.asked == [("/token/refresh", None), ("/whoami", "jwt-2")]
    assert _order(machine) == ["claim", "keep", "ask", "keep", "ask"]
    assert (machine.kept.refresh_token, machine.kept.id, machine.kept.email) == ("er_1_two", old.id, old.email)


def test_one_that_is_refused_is_renewed_once() -> None:
    machine = Machine(Held(sign_in()), REFUSED, GIVEN, REFUSED)
    with pytest.raises(Unauthenticated):
        machine.run(Signed(SIGNING, sign_in()).under(API.whoami()))

    assert [path for path, _ in machine.asked] == ["/whoami", "/token/refresh", "/whoami"]


def test_what_another_process_renewed_is_taken_up() -> None:
    old = sign_in(**ENDED)
    machine = Machine(Held(sign_in(token="jwt-other", refresh_token="er_1_other")), ME)
    machine.run(Signed(SIGNING, old).under(API.whoami()))

    assert machine.asked == [("/whoami", "jwt-other")]


def test_a_client_that_renewed_goes_on_with_the_new() -> None:
    signed = Signed(SIGNING, sign_in(**ENDED))
    machine = Machine(Held(sign_in(**ENDED)), GIVEN, ME, ME)
    machine.run(signed.under(API.whoami()))
    machine.run(signed.under(API.whoami()))

    assert machine.asked[1:] == [("/whoami", "jwt-2")] * 2


def test_a_clock_that_is_wrong_costs_one_renewal_and_not_one_for_each_call() -> None:
    stale = TOKENS.model_copy(update=ENDED)
    signed = Signed(SIGNING, sign_in(**ENDED))
    machine = Machine(Held(sign_in(**ENDED)), Answer(200, stale.model_dump_json().encode()), ME, ME, REFUSED, GIVEN, ME)
    for _ in range(3):
        machine.run(signed.under(API.whoami()))

    assert [path for path, _ in machine.asked] == [
        "/token/refresh", "/whoami", "/whoami", "/whoami", "/token/refresh", "/whoami",
    ]  # fmt: skip


@pytest.mark.parametrize("there", [Held(sign_in(id="b")), Held(sign_in(id="b", org_id="org_2"))])
def test_a_client_does_not_become_another_user_or_move_to_another_org(there: Held) -> None:
    machine = Machine(there)
    with pytest.raises(Unauthenticated, match="replaced"):
        machine.run(Signed(SIGNING, sign_in(**ENDED)).under(API.whoami()))

    assert machine.asked == []


@pytest.mark.parametrize("org_id", ["", "x" * 65])
def test_what_can_be_no_org_is_refused_here(org_id: str) -> None:
    machine = Machine(Held(sign_in()))
    with pytest.raises(InvalidRequest, match="org_id"):
        machine.run(Signed(SIGNING, sign_in()).switch(org_id))

    assert machine.asked == []


@pytest.mark.parametrize("there", [Held(), Held(sign_in("https://elsewhere.example"))])
def test_a_refresh_token_is_for_its_own_server(there: Held) -> None:
    machine = Machine(there)
    with pytest.raises(Unauthenticated, match="`enclave login`"):
        machine.run(Signed(SIGNING, sign_in(**ENDED)).under(API.whoami()))

    assert machine.asked == []


def test_one_that_is_over_for_good_says_so_and_stays_kept() -> None:
    machine = Machine(Held(sign_in(**ENDED)), REFUSED)
    with pytest.raises(Unauthenticated, match="is over: run `enclave login`"):
        machine.run(Signed(SIGNING, sign_in(**ENDED)).under(API.whoami()))

    # Else the next command would quietly go by another credential.
    assert machine.kept == sign_in(**ENDED)


@pytest.mark.parametrize("failure", [Lost("it broke"), Lost("late", late=True), Answer(503)])
def test_a_refresh_whose_answer_is_lost_is_not_repeated(failure: Reply) -> None:
    signing = Signing(Api(SITE))
    machine = Machine(Held(sign_in(**ENDED)), failure)
    with pytest.raises(Unavailable):
        machine.run(Signed(signing, sign_in(**ENDED)).under(API.whoami()))

    assert len(machine.asked) == 1


def test_nothing_is_asked_where_nothing_can_be_kept() -> None:
    class Full(Machine):
        def _reply(self, step: Any) -> Reply:
            if isinstance(step, Keep):
                raise Unavailable("no space")
            return super()._reply(step)

    machine = Full(Held(sign_in(**ENDED)))
    with pytest.raises(Unavailable, match="no space"):
        machine.run(Signed(SIGNING, sign_in(**ENDED)).under(API.whoami()))

    assert machine.asked == []


def test_whoever_finds_it_taken_waits_and_not_for_ever() -> None:
    machine = Machine(None)
    with pytest.raises(Unavailable, match="another process"):
        machine.run(Signed(SIGNING, sign_in(**ENDED)).under(API.whoami()))

    waited = sum(step.seconds for step in machine.steps if isinstance(step, Pause))
    assert waited == pytest.approx(CLAIM_SECONDS, abs=2 * POLL_SECONDS)


def test_a_login_ends_the_sign_in_that_it_takes_the_place_of_whether_or_not_that_works() -> None:
    machine = Machine(Held(sign_in()), GIVEN, Lost("it broke"))
    begun = machine.run(SIGNING.login(Login(email="bob@example.org", password=SecretStr("hunter 2"))))

    assert [path for path, _ in machine.asked] == ["/login", "/logout"]
    assert _order(machine) == ["claim", "ask", "keep", "ask"]
    assert begun == machine.kept
    assert (begun.email, begun.org_id, begun.id != sign_in().id) == ("bob@example.org", "org_2", True)
    bodies = [json.loads(step.body or b"") for step in machine.steps if isinstance(step, Call)]
    assert bodies == [{"email": "bob@example.org", "password": "hunter 2"}, {"refreshToken": "er_1_one"}]
    assert "hunter 2" not in repr(machine.steps)


def test_a_login_puts_right_what_is_damaged_and_tells_no_other_server() -> None:
    for there in (Held(problem="damaged"), Held(sign_in("https://elsewhere.example"))):
        machine = Machine(there, GIVEN)
        machine.run(SIGNING.login(Login(email="bob@example.org", password=SecretStr("hunter 2"))))
        assert ([path for path, _ in machine.asked], machine.kept.token) == (["/login"], "jwt-2")


def test_a_password_that_is_wrong_says_no_more_than_that_and_changes_nothing() -> None:
    machine = Machine(Held(sign_in()), REFUSED)
    with pytest.raises(Unauthenticated, match="email or the password is wrong"):
        machine.run(SIGNING.login(Login(email="ada@example.org", password=SecretStr("wrong"))))

    assert machine.kept == sign_in(expires_at=machine.kept.expires_at)


def test_tokens_that_no_header_could_hold_are_not_kept() -> None:
    bad = Answer(200, TOKENS.model_copy(update={"token": "a\r\nb"}).model_dump_json().encode())
    machine = Machine(Held(), bad)
    with pytest.raises(Unavailable, match="cannot read"):
        machine.run(SIGNING.login(Login(email="ada@example.org", password=SecretStr("x"))))

    assert machine.held == Held()


def test_a_switch_is_a_sign_in_of_its_own_and_its_client_follows() -> None:
    signed = Signed(SIGNING, sign_in())
    machine = Machine(Held(sign_in()), GIVEN, ME)
    machine.run(signed.switch("org_2"))
    machine.run(signed.under(API.whoami()))

    assert machine.asked == [("/token/switch", None), ("/whoami", "jwt-2")]
    assert (machine.kept.org_id, machine.kept.email) == ("org_2", "ada@example.org")
    assert machine.kept.id != sign_in().id


def test_a_switch_that_is_refused_leaves_the_sign_in_as_it_is() -> None:
    machine = Machine(Held(sign_in()), Answer(403, b"{}"))
    with pytest.raises(Forbidden):
        machine.run(Signed(SIGNING, sign_in()).switch("org_2"))

    assert (machine.kept.id, machine.kept.refresh_token) == ("a", "er_1_one")


def test_another_password_is_set_with_a_token_that_holds() -> None:
    machine = Machine(Held(sign_in(**ENDED)), GIVEN, GIVEN)
    machine.run(SIGNING.change_password(ChangePassword(current=SecretStr("old"), new=SecretStr("new"))))

    assert machine.asked == [("/token/refresh", None), ("/password", "jwt-2")]
    assert _order(machine) == ["claim", "keep", "ask", "keep", "keep", "ask", "keep"]


def test_signing_out_forgets_first_and_then_tells_the_server() -> None:
    machine = Machine(Held(sign_in()), Lost("nobody there", unsent=True))
    with pytest.raises(ConnectionFailed):
        machine.run(SIGNING.logout())

    assert (_order(machine), machine.held) == (["claim", "keep", "ask"], Held())


def test_signing_out_where_nobody_is_signed_in_is_nothing() -> None:
    for there in (Held(), Held(problem="damaged")):
        machine = Machine(there)
        assert (machine.run(SIGNING.logout()), machine.asked, machine.held) == (False, [], Held())
    elsewhere = Machine(Held(sign_in("https://elsewhere.example")))
    assert (elsewhere.run(SIGNING.logout()), elsewhere.asked) == (False, [])
    assert elsewhere.kept.base_url == "https://elsewhere.example"
