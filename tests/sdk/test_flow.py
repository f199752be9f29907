"""The flows on their own: what they ask for, given what they are told. Nothing here does any I/O."""

from typing import Any

import pytest

from enclave.contracts.errors import ConnectionFailed, Unavailable
from enclave.contracts.sessions import CreateSessionRequest
from enclave.sdk.flow import Api
from enclave.sdk.step import Answer, Call, Deliver, Flow, Lost, Open, Pause, Read, Reply, advance
from tests.sdk.samples import DONE, END, HI, ID
from tests.sdk.scripted import event

API = Api("http://there", retry=(0.1, 0.2), resume=(0.0, 1.0))
REFUSED = Lost("Connection refused", unsent=True)
BROKEN = Lost("it broke")
LATE = Lost("too late", late=True)
FULL = Answer(503)
FOUND = Answer(200, DONE.model_dump_json().encode())
STREAM = Answer(200, streams=True)


def _play(flow: Flow[Any], *replies: Reply) -> list[object]:
    """The steps of a flow that is given these replies; pauses and deliveries are answered with None."""
    left = list(replies)
    steps: list[object] = []
    reply: Reply = None
    while (step := advance(flow, reply)) is not None:
        steps.append(step)
        reply = None if isinstance(step, Pause | Deliver) else left.pop(0)
    assert left == []
    return steps


def _kinds(steps: list[object]) -> list[object]:
    return [step if isinstance(step, Pause | Deliver) else type(step) for step in steps]


@pytest.mark.parametrize("failure", [REFUSED, BROKEN, FULL])
def test_a_read_is_repeated_after_growing_pauses(failure: Reply) -> None:
    steps = _play(API.get(ID), failure, failure, FOUND)

    assert _kinds(steps) == [Call, Pause(0.1), Call, Pause(0.2), Call, Deliver(DONE)]


def test_a_teardown_is_repeated_too() -> None:
    assert _kinds(_play(API.teardown(ID), BROKEN, FOUND)) == [Call, Pause(0.1), Call, Deliver(DONE)]


def test_repetition_has_an_end() -> None:
    with pytest.raises(ConnectionFailed, match="broke"):
        _play(API.get(ID), BROKEN, BROKEN, BROKEN)
    with pytest.raises(Unavailable, match="503"):
        _play(API.get(ID), FULL, FULL, FULL)


def test_a_server_may_ask_for_a_longer_pause_but_not_for_any() -> None:
    asking = Answer(503, retry_after=3.0), Answer(503, retry_after=1e9)

    assert [step for step in _play(API.get(ID), *asking, FOUND) if isinstance(step, Pause)] == [Pause(3.0), Pause(5.0)]


def test_what_was_waited_for_in_vain_is_not_repeated() -> None:
    with pytest.raises(ConnectionFailed, match="too late"):
        _play(API.get(ID), LATE)


@pytest.mark.parametrize("failure", [BROKEN, FULL])
def test_a_session_is_never_created_twice(failure: Reply) -> None:
    with pytest.raises(Unavailable):
        _play(API.create(CreateSessionRequest(code="x"), None), failure)


def test_a_creation_that_was_never_sent_is_repeated() -> None:
    steps = _play(API.create(CreateSessionRequest(code="x"), None), REFUSED, FOUND)

    assert _kinds(steps) == [Call, Pause(0.1), Call, Deliver(DONE)]


def test_a_stream_that_moves_on_may_break_any_number_of_times() -> None:
    replies: list[Reply] = []
    for place in range(10):
        replies += [STREAM, event(HI, str(place)), BROKEN]
    steps = _play(API.follow(ID, None), *replies, STREAM, event(END, "end"), b"")

    opened = [step.call.headers.get("Last-Event-ID") for step in steps if isinstance(step, Open)]
    assert opened == [None, *map(str, range(10))]
    assert steps.count(Deliver(END, "end")) == 1


def test_a_stream_that_does_not_move_on_ends() -> None:
    with pytest.raises(ConnectionFailed, match="refused"):
        _play(
            API.follow(ID, "7"),
            STREAM,
            BROKEN,
            STREAM,
            b"",
            REFUSED,
        )
    with pytest.raises(ConnectionFailed, match="it broke"):
        _play(API.follow(ID, "7"), STREAM, b"", STREAM, b": ping\n\n", b"", STREAM, BROKEN)


def test_a_stream_that_cannot_be_opened_is_tried_as_any_read_is() -> None:
    with pytest.raises(ConnectionFailed, match="refused"):
        _play(API.follow(ID, None), REFUSED, REFUSED, REFUSED)


def test_a_stream_is_read_to_its_last_byte_so_that_the_connection_serves_again() -> None:
    assert _kinds(_play(API.follow(ID, None), STREAM, event(END, "1"), b""))[-2:] == [Deliver(END, "1"), Read]


def test_settling_what_is_settled_asks_nothing() -> None:
    assert _play(API.settle(DONE)) == [Deliver(DONE)]


def test_settling_what_was_listed_without_its_result_asks_once() -> None:
    assert _kinds(_play(API.settle(DONE.model_copy(update={"result": None})), FOUND)) == [Call, Deliver(DONE)]
