"""The chain: whatever is done to it is found."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from enclave.contracts.audit import (
    GENESIS,
    AuditEvent,
    ResultCollected,
    SandboxStarted,
    SessionCreated,
    SessionFailed,
    SessionTornDown,
    WorkloadExited,
)
from enclave.contracts.files import FilesDigest
from enclave.contracts.policy import EgressMode, EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import KillReason, Phase
from enclave.core.audit import canonical, seal, verify

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
STAMP: dict[str, Any] = {"ts": AT, "org_id": "org_a", "session_id": "ses_" + "0" * 26, "actor": "ada"}
EVENT: TypeAdapter[AuditEvent] = TypeAdapter(AuditEvent)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
BARE = st.one_of(
    st.builds(lambda name: SandboxStarted(**STAMP, backend=name), TEXT),
    st.builds(lambda detail: SessionFailed(**STAMP, reason="launch_failed", detail=detail), TEXT),
    st.builds(lambda phase: SessionTornDown(**STAMP, was=phase), st.sampled_from(Phase)),
    st.builds(
        lambda code, reason, ms: WorkloadExited(
            **STAMP, exit_code=code, signal=None, kill_reason=reason, duration_ms=ms
        ),
        st.none() | st.integers(0, 255),
        st.sampled_from([*KillReason, None]),
        st.floats(0, 1e12),
    ),
    st.builds(
        lambda size: ResultCollected(
            **STAMP, phase=Phase.FAILED, stdout_bytes=size, stderr_bytes=0, result_bytes=0, result_sha256=None
        ),
        st.integers(0, 2**40),
    ),
    st.builds(
        lambda labels, size, files: SessionCreated(
            **STAMP,
            language=Language.NODE,
            limits=SessionLimits(),
            egress=EgressPolicy(),
            labels=labels,
            code_bytes=size,
            code_sha256="0" * 64,
            files=files,
        ),
        st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.\-/]{0,9}", fullmatch=True), TEXT, max_size=3),
        st.integers(0, 2**20),
        st.sampled_from((None, FilesDigest(count=2, bytes=3, sha256="1" * 64))),
    ),
)


def chained(events: Sequence[AuditEvent]) -> list[AuditEvent]:
    chain: list[AuditEvent] = []
    for seq, event in enumerate(events, 1):
        chain.append(seal(event, seq=seq, previous=chain[-1].digest if chain else GENESIS))
    return chain


CHAINS = st.lists(BARE, min_size=1, max_size=6).map(chained)


FILES = FilesDigest(count=1, bytes=1, sha256="0" * 64)
ABSENT = {
    "files": FILES,
    "exit_code": 1,
    "signal": 1,
    "kill_reason": KillReason.CPU_EXCEEDED,
    "session_id": "x",
    "result_sha256": "x",
}


def changed(name: str, value: object) -> object:  # noqa: C901  a case for each type
    """Another value that this field may have."""
    match value:
        case None:
            return ABSENT[name]
        case int() | float():
            return value + 1
        case datetime():
            return value + timedelta(microseconds=1)
        case Phase():
            return Phase.KILLED if value is not Phase.KILLED else Phase.FAILED
        case KillReason() | FilesDigest():
            return None
        case tuple():
            return (*value, "another")
        case Language():
            return Language.PYTHON
        case SessionLimits():
            return value.model_copy(update={"pids": value.pids + 1})
        case EgressPolicy():
            return value.model_copy(update={"allow": ("evil.example",)})
        case dict():
            return {**value, "planted": "label"}
        case _:
            return f"{value}x"


@given(CHAINS)
def test_a_chain_left_alone_holds(chain: list[AuditEvent]) -> None:
    assert verify(chain) is None


def test_no_events_hold() -> None:
    assert verify([]) is None


@given(CHAINS, st.data())
def test_a_change_to_any_field_is_found_where_it_is(chain: list[AuditEvent], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(chain) - 1))
    name = data.draw(st.sampled_from(sorted(type(chain[index]).model_fields)))
    forged = chain[index].model_copy(update={name: changed(name, getattr(chain[index], name))})

    assert verify([*chain[:index], forged, *chain[index + 1 :]]) == index + 1


@given(CHAINS, st.data())
def test_a_change_that_is_sealed_again_is_found_at_the_next_event(chain: list[AuditEvent], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(chain) - 1))
    forged = chain[index].model_copy(update={"actor": "mallory"})
    forged = seal(forged, seq=forged.seq, previous=forged.previous)
    rewritten = [*chain[:index], forged, *chain[index + 1 :]]

    # The last link has nothing after it that would give it away: that is what anchoring a head elsewhere is for.
    assert verify(rewritten) == (None if index == len(chain) - 1 else index + 2)


@given(CHAINS, st.data())
def test_an_event_that_is_taken_out_is_missed(chain: list[AuditEvent], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(chain) - 1))
    rest = [*chain[:index], *chain[index + 1 :]]

    assert verify(rest) == (None if index == len(chain) - 1 else index + 1)


@given(CHAINS, st.data())
def test_an_event_that_is_put_in_twice_is_found(chain: list[AuditEvent], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(chain) - 1))

    assert verify([*chain[: index + 1], *chain[index:]]) == index + 2


@given(st.lists(BARE, min_size=2, max_size=6).map(chained), st.data())
def test_any_other_order_is_found(chain: list[AuditEvent], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(chain).filter(lambda order: order != chain))
    first = next(place for place, event in enumerate(shuffled, 1) if event.seq != place)

    assert verify(shuffled) == first


@given(CHAINS, CHAINS)
def test_a_chain_does_not_go_on_with_another_ones_events(one: list[AuditEvent], other: list[AuditEvent]) -> None:
    assert verify([*one, *other]) == len(one) + 1


@given(CHAINS)
def test_a_digest_covers_exactly_the_json_without_itself(chain: list[AuditEvent]) -> None:
    for event in chain:
        fields = json.loads(event.model_dump_json())
        digest = fields.pop("digest")
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

        assert canonical(event) == text.encode()
        assert digest == hashlib.sha256(text.encode()).hexdigest()


@given(CHAINS)
def test_a_chain_that_went_over_the_wire_still_holds(chain: list[AuditEvent]) -> None:
    received = [EVENT.validate_json(event.model_dump_json()) for event in chain]

    assert received == chain
    assert verify(received) is None


@given(BARE, st.integers(-12, 12))
def test_a_moment_has_one_digest_in_every_time_zone(event: AuditEvent, hours: int) -> None:
    elsewhere = event.model_copy(update={"ts": AT.astimezone(timezone(timedelta(hours=hours)))})

    assert canonical(event) == canonical(elsewhere)


@pytest.mark.parametrize("seq", [0, 2])
def test_a_chain_begins_at_one(seq: int) -> None:
    assert verify([seal(SandboxStarted(**STAMP, backend="x"), seq=seq, previous=GENESIS)]) == 1


def test_a_chain_begins_with_nothing_before_it() -> None:
    assert verify([seal(SandboxStarted(**STAMP, backend="x"), seq=1, previous="1" * 64)]) == 1


def created(egress: EgressPolicy) -> SessionCreated:
    return SessionCreated(
        **STAMP, language=Language.PYTHON, limits=SessionLimits(), egress=egress, labels={}, code_bytes=7,
        code_sha256="0" * 64,
    )  # fmt: skip


def test_a_policy_that_denies_nothing_has_the_digest_it_had_before_it_could_deny() -> None:
    egress = EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("example.org:443",))

    sealed = [seal(created(one), seq=1, previous=GENESIS) for one in (egress, egress.model_copy(update={"deny": ()}))]

    assert {event.digest for event in sealed} == {"0c2a569dc8c15a7b6ce815dec044ae9b2b4982a94e9d38f0faf33172eefef99a"}
    assert EVENT.validate_json(sealed[0].model_dump_json()) == sealed[0]


def test_what_is_denied_is_part_of_what_is_sealed() -> None:
    denying = created(EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("::/0",), deny=("2001:db8::/32",)))

    assert b'"deny":["2001:db8::/32"]' in canonical(denying)
    assert EVENT.validate_json(denying.model_dump_json()) == denying


OLD = (
    (
        SessionCreated(
            **STAMP,
            language=Language.NODE,
            limits=SessionLimits(),
            egress=EgressPolicy(),
            labels={},
            code_bytes=1,
            code_sha256="0" * 64,
        ),
        "31a122e2d6a42f3c76f403ef9d4b061dd00921cac93ffc6b93bae449ee7885aa",
    ),
    (
        ResultCollected(
            **STAMP, phase=Phase.FAILED, stdout_bytes=1, stderr_bytes=0, result_bytes=0, result_sha256=None
        ),
        "0c87b6e670c69a7073251f208d9b0e83c81cc283d3cbf20d5f3d60528f840695",
    ),
)


@pytest.mark.parametrize(("event", "digest"), OLD, ids=lambda one: getattr(one, "type", ""))
def test_an_event_without_files_has_the_digest_it_had_before_there_were_any(event: AuditEvent, digest: str) -> None:
    assert seal(event, seq=1, previous=GENESIS).digest == digest
