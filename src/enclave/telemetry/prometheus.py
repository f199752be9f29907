"""Metrics in Prometheus' text format. No label says whose a session is: their number is bounded, and who reads them
learns nothing of an org."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

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
from enclave.contracts.sessions import Session
from enclave.core.session import UNSETTLED

MEDIA_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_START: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RUN: Final = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Gauge:
    """What is read when somebody asks: its name, what it is, and its value for each value of the one label."""

    name: str
    help: str
    label: str
    read: Callable[[], Iterable[tuple[str, float]]]


class Metrics:
    """An Observer that counts, and shows the counts."""

    def __init__(self, gauges: Iterable[Gauge] = ()) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(tuple(gauges)))
        self._created = self._counter("sessions_created", "Sessions that were accepted.", "language")
        self._ended = self._counter("sessions_ended", "Sessions that ended, by their phase.", "phase")
        self._kills = self._counter("kills", "Programs that were killed, by reason.", "reason")
        self._failures = self._counter("failures", "Sessions that the platform ended, by reason.", "reason")
        self._verdicts = self._counter("egress_attempts", "What programs tried to reach, by verdict.", "verdict")
        self._bytes = self._counter("egress_bytes", "What programs exchanged with what they reached.", "direction")
        self._calls = self._counter("service_binding_calls", "Calls through service bindings.", "result")
        self._running = self._histogram("start_seconds", "From the request to a sandbox that has the code.", _START)
        self._printed = self._histogram("first_output_seconds", "From the request to the first output.", _START)
        self._ran = self._histogram("run_seconds", "How long programs ran.", _RUN)
        self._stored = self._histogram("store_seconds", "From a change to its being durable.", _START)
        self._requests = Histogram(
            "enclave_request_seconds", "From a request to the head of its answer.", ("operation", "status"),
            buckets=_START, registry=self._registry,
        )  # fmt: skip

    def told(self, event: AuditEvent, session: Session) -> None:
        """Count an event."""
        match event:
            case SessionCreated():
                self._created.labels(session.language).inc()
            case SandboxStarted():
                self._running.observe(max(0.0, (event.ts - session.created_at).total_seconds()))
            case WorkloadExited():
                self._ran.observe(event.duration_ms / 1000)
                if event.kill_reason is not None:
                    self._kills.labels(event.kill_reason).inc()
            case ResultCollected():
                self._ended.labels(event.phase).inc()
            case SessionFailed():
                self._ended.labels(session.phase).inc()
                self._failures.labels(event.reason).inc()
            case SessionTornDown(was=was) if was in UNSETTLED:
                self._ended.labels(session.phase).inc()
            case _:
                self._reached(event)

    def printed(self, session: Session, seconds: float) -> None:
        """Count a first output."""
        self._printed.observe(seconds)

    def stored(self, seconds: float) -> None:
        """Count a write."""
        self._stored.observe(seconds)

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(operation, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Everything, as `MEDIA_TYPE`."""
        return generate_latest(self._registry)

    def _reached(self, event: AuditEvent) -> None:
        match event:
            case EgressAllowed():
                self._verdicts.labels("allowed").inc(event.count)
            case EgressDenied():
                self._verdicts.labels("denied").inc(event.count)
            case EgressClosed():
                self._count_bytes(event)
            case ServiceBindingInvoked():
                self._calls.labels("failed" if event.status is None else f"{event.status // 100}xx").inc(event.count)
                self._count_bytes(event)
            case _:
                pass

    def _count_bytes(self, event: EgressClosed | ServiceBindingInvoked) -> None:
        self._bytes.labels("sent").inc(event.sent_bytes)
        self._bytes.labels("received").inc(event.received_bytes)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"enclave_{name}", text, (label,), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"enclave_{name}", text, buckets=buckets, registry=self._registry)


class _Gauges(Collector):
    def __init__(self, gauges: tuple[Gauge, ...]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for gauge in self._gauges:
            family = GaugeMetricFamily(f"enclave_{gauge.name}", gauge.help, labels=(gauge.label,))
            for label, value in gauge.read():
                family.add_metric((label,), value)
            yield family
