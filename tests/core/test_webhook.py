"""What a webhook says, how it is signed, and when it is tried again."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from enclave.contracts.errors import NotFound
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.core.session import Started, TornDown, advance
from enclave.core.webhook import (
    DELAYS,
    MAX_BODY_BYTES,
    body,
    delivery_id,
    is_delivered,
    next_attempt,
    secret_of,
    session_of_delivery,
    signatures,
)
from enclave.testing.store import AT, FINISHED, RESULT
from tests.store.test_sqlite import a_session

OLD, NEW = secret_of(bytes(32)), secret_of(bytes(range(32)))
CONTENT = b'{"type": "session.succeeded", "note": "\xc3\xa9"}'


def ended(result: SessionResult = RESULT) -> Session:
    running = advance(a_session(1), Started("x"), at=AT, actor="x").session
    return advance(running, FINISHED, at=AT, actor="x").session.model_copy(update={"result": result})


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_the_packages_verifier_takes_either_signature_during_a_rotation(secret: str) -> None:
    headers = signatures([NEW, OLD], "msg_1_succeeded", datetime.now(UTC), CONTENT)

    assert Webhook(secret).verify(CONTENT, headers)["note"] == "é"
    assert len(headers["webhook-signature"].split(" ")) == 2


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "webhook-signature", "body", "secret"])
def test_the_packages_verifier_refuses_what_was_changed(changed: str) -> None:
    now = datetime.now(UTC)
    headers = signatures([NEW], "msg_1_succeeded", now, CONTENT)
    other = signatures([OLD], "msg_2_succeeded", now + timedelta(seconds=1), CONTENT)
    if changed in headers:
        headers[changed] = other[changed]

    with pytest.raises(WebhookVerificationError):
        Webhook(OLD if changed == "secret" else NEW).verify(CONTENT + b" " * (changed == "body"), headers)


def test_a_message_is_the_session_as_it_ended_and_stays_so() -> None:
    session = ended()
    torn = advance(session, TornDown(), at=AT + timedelta(days=1), actor="x").session
    message = json.loads(body(session, Phase.SUCCEEDED))

    assert message == {
        "type": "session.succeeded",
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "data": json.loads(session.model_dump_json()),
    }
    assert message["data"]["result"]["result"] == {"n": [1, 2.5, None, "é"]}
    assert body(torn, Phase.SUCCEEDED) == body(session, Phase.SUCCEEDED)


@pytest.mark.parametrize(
    "result",
    [
        SessionResult(exit_code=0, stdout="x" * (MAX_BODY_BYTES + 1)),
        SessionResult(exit_code=0, stdout="x" * (MAX_BODY_BYTES // 2), stderr="x" * (MAX_BODY_BYTES // 2)),
        SessionResult(exit_code=0, stdout="\x00" * (MAX_BODY_BYTES // 4)),
        SessionResult(exit_code=0, result=["x" * MAX_BODY_BYTES]),
    ],
)
def test_what_is_too_large_is_left_out_and_said_to_be(result: SessionResult) -> None:
    content = body(ended(result), Phase.SUCCEEDED)
    message = json.loads(content)

    assert len(content) < 4096
    assert message["omitted"] == ["result.result", "result.stdout", "result.stderr"]
    assert message["data"]["result"]["exitCode"] == 0
    assert not {"result", "stdout", "stderr"} & set(message["data"]["result"])


def test_what_is_just_small_enough_is_sent_whole() -> None:
    room = MAX_BODY_BYTES - len(body(ended(SessionResult(exit_code=0)), Phase.SUCCEEDED))

    whole = body(ended(SessionResult(exit_code=0, stdout="x" * room)), Phase.SUCCEEDED)
    cut = body(ended(SessionResult(exit_code=0, stdout="x" * (room + 1))), Phase.SUCCEEDED)

    assert (len(whole), b"omitted" in whole, b"omitted" in cut) == (MAX_BODY_BYTES, False, True)


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.KILLED, Phase.TORN_DOWN])
def test_an_id_is_of_a_session_and_its_end_and_has_no_full_stop(phase: Phase) -> None:
    session_id = a_session(1).id
    made = delivery_id(session_id, phase)

    assert "." not in made
    assert session_of_delivery(made) == (session_id, phase)


@pytest.mark.parametrize("text", ["", "msg_", "ses_1", "msg_1_succeeded", f"msg_{'0' * 26}", f"msg_{'0' * 26}_a\n"])
def test_what_is_no_id_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        session_of_delivery(text)


def test_it_is_tried_for_a_day_and_then_given_up() -> None:
    moments = [AT]
    while (moment := next_attempt(len(moments), moments[-1], 0.5)) is not None:
        moments.append(moment)

    assert len(moments) == 1 + len(DELAYS)
    assert timedelta(hours=23) < moments[-1] - AT < timedelta(hours=26)
    gaps = [(after - before).total_seconds() for before, after in pairwise(moments)]
    assert gaps == sorted(gaps)


def test_no_two_are_tried_again_at_the_same_moment() -> None:
    least, most = (next_attempt(1, AT, chance) for chance in (0.0, 1.0))

    assert (least, most) == (AT + timedelta(seconds=4), AT + timedelta(seconds=6))


def test_a_receiver_that_asks_to_be_left_alone_is_for_an_hour_at_most() -> None:
    assert next_attempt(1, AT, 0.5, 60) == AT + timedelta(seconds=60)
    assert next_attempt(1, AT, 0.5, 1) == AT + timedelta(seconds=5)
    assert next_attempt(1, AT, 0.5, 10**9) == AT + timedelta(hours=1)


@pytest.mark.parametrize(("status", "taken"), [(199, 0), (200, 1), (299, 1), (300, 0), (304, 0), (None, 0)])
def test_what_counts_as_taken(status: int | None, taken: int) -> None:
    assert is_delivered(status) == bool(taken)
