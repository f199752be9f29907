"""What is counted, and what of it shows."""

from datetime import UTC, datetime, timedelta

from prometheus_client.parser import text_string_to_metric_families

from enclave.contracts.audit import (
    AuditEvent,
    EgressAllowed,
    EgressClosed,
    EgressDenied,
    ResultCollected,
    SandboxStarted,
    ServiceBindingInvoked,
    SessionCreated,
    SessionFailed,
    SessionTornDown,
    WorkloadExited,
)
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import KillReason, Phase, Session
from enclave.telemetry.prometheus import Gauge, Metrics

AT = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = Session(
    id="ses_" + "0" * 26, org_id="org_secret", created_by="k", phase=Phase.KILLED, language=Language.PYTHON,
    limits=SessionLimits(), egress=EgressPolicy(), backend="local", created_at=AT,
)  # fmt: skip
STAMP = {"ts": AT + timedelta(seconds=0.02), "org_id": "org_secret", "session_id": SESSION.id, "actor": "platform"}
CLOSED = {"target": "192.0.2.1:443", "name": "secret.example", "rule": "secret.example", "reason": "", "count": 2}
EVENTS: tuple[AuditEvent, ...] = (
    SessionCreated.model_validate(
        {**STAMP, "language": Language.PYTHON, "limits": SessionLimits(), "egress": EgressPolicy(), "labels": {},
         "code_bytes": 1, "code_sha256": "0"}
    ),
    SandboxStarted.model_validate({**STAMP, "backend": "local"}),
    EgressAllowed.model_validate({**STAMP, "target": "192.0.2.1:443", "name": None, "rule": "r", "count": 3}),
    EgressDenied.model_validate(
        {**STAMP, "target": "x", "protocol": "dns", "name": None, "rule": None, "reason": "no rule", "count": 4}
    ),
    EgressClosed.model_validate({**STAMP, **CLOSED, "sent_bytes": 10, "received_bytes": 20, "duration_ms": 1.0}),
    ServiceBindingInvoked.model_validate(
        {**STAMP, "binding": "b", "method": "GET", "path": "/secret", "status": 404, "sent_bytes": 1,
         "received_bytes": 2, "duration_ms": 1.0, "error": None, "count": 1}
    ),
    WorkloadExited.model_validate(
        {**STAMP, "exit_code": None, "signal": None, "kill_reason": KillReason.MEMORY_EXCEEDED, "duration_ms": 30.0}
    ),
    ResultCollected.model_validate(
        {**STAMP, "phase": Phase.KILLED, "stdout_bytes": 0, "stderr_bytes": 0, "result_bytes": 0, "result_sha256": None}
    ),
    SessionTornDown.model_validate({**STAMP, "was": Phase.KILLED}),
)  # fmt: skip


def samples(metrics: Metrics) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_sessions_life_is_counted() -> None:
    metrics = Metrics()
    for event in EVENTS:
        metrics.told(event, SESSION)
    metrics.printed(SESSION, 0.004)
    metrics.stored(0.002)
    metrics.answered("create_session", 201, 0.003)
    found = samples(metrics)
    stamps = ("_bucket", "_created")
    counted = {name: value for name, value in found.items() if value and not name.partition("{")[0].endswith(stamps)}
    assert counted == {
        "enclave_sessions_created_total{language=python}": 1,
        "enclave_sessions_ended_total{phase=killed}": 1,
        "enclave_kills_total{reason=memory_exceeded}": 1,
        "enclave_egress_attempts_total{verdict=allowed}": 3,
        "enclave_egress_attempts_total{verdict=denied}": 4,
        "enclave_egress_bytes_total{direction=sent}": 11,
        "enclave_egress_bytes_total{direction=received}": 22,
        "enclave_service_binding_calls_total{result=4xx}": 1,
        "enclave_start_seconds_count": 1,
        "enclave_start_seconds_sum": 0.02,
        "enclave_first_output_seconds_count": 1,
        "enclave_first_output_seconds_sum": 0.004,
        "enclave_run_seconds_count": 1,
        "enclave_run_seconds_sum": 0.03,
        "enclave_store_seconds_count": 1,
        "enclave_store_seconds_sum": 0.002,
        "enclave_request_seconds_count{operation=create_session,status=201}": 1,
        "enclave_request_seconds_sum{operation=create_session,status=201}": 0.003,
    }


def test_a_session_ends_once_however_it_does() -> None:
    metrics = Metrics()
    failed = SESSION.model_copy(update={"phase": Phase.FAILED})
    torn = SESSION.model_copy(update={"phase": Phase.TORN_DOWN})
    metrics.told(SessionFailed.model_validate({**STAMP, "reason": "sandbox_lost", "detail": "d"}), failed)
    metrics.told(SessionTornDown.model_validate({**STAMP, "was": Phase.RUNNING}), torn)
    metrics.told(SessionTornDown.model_validate({**STAMP, "was": Phase.FAILED}), torn)
    found = samples(metrics)
    assert found["enclave_sessions_ended_total{phase=failed}"] == 1
    assert found["enclave_sessions_ended_total{phase=torn_down}"] == 1
    assert found["enclave_failures_total{reason=sandbox_lost}"] == 1


def test_nothing_of_an_org_shows() -> None:
    metrics = Metrics()
    for event in EVENTS:
        metrics.told(event, SESSION)
    text = metrics.text().decode()
    for secret in ("org_secret", SESSION.id, "secret.example", "192.0.2.1", "/secret"):
        assert secret not in text


def test_gauges_are_read_when_they_are_asked_for() -> None:
    depth = {"bare/python": 1.0}
    metrics = Metrics([Gauge("pool_ready", "Waiting.", "pool", depth.items)])
    assert samples(metrics)["enclave_pool_ready{pool=bare/python}"] == 1
    depth["bare/python"] = 7
    assert samples(metrics)["enclave_pool_ready{pool=bare/python}"] == 7
