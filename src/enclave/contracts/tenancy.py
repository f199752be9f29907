"""What an org may have: its quotas, the policy that its sessions are bound by, and what it used."""

from typing import Annotated, Final

from pydantic import Field

from enclave.contracts.policy import MAX_RULES, EgressRule, RequestedLimits
from enclave.contracts.sessions import TemplateName
from enclave.contracts.wire import Timestamp, Wire

MAX_QUOTA: Final = 2**53
"""The greatest whole number that every JSON reader takes exactly (RFC 8259, section 6)."""

MAX_CREATES: Final = 100_000
"""The greatest quota of creates a minute: each of them is remembered for so long."""

Count = Annotated[int, Field(ge=0, le=MAX_QUOTA)]
Seconds = Annotated[float, Field(ge=0, le=MAX_QUOTA)]


class OrgPolicy(Wire):
    """What an org's sessions may ask for. What is left out is not narrowed.

    `limits` are the most of each limit. Whatever a session may reach lies within a rule of `egress`, its service
    bindings and its source included, and within none of `deny`; an `egress` with no rules is no egress at all.
    `templates` and `backends` are those that may be used; a session without a template is always allowed. A list of
    rules has at most 256, of two policies together twice as many.
    """

    limits: RequestedLimits = RequestedLimits()
    egress: tuple[EgressRule, ...] | None = Field(default=None, max_length=2 * MAX_RULES)
    deny: tuple[EgressRule, ...] = Field(default=(), max_length=2 * MAX_RULES)
    templates: tuple[TemplateName, ...] | None = Field(default=None, max_length=256)
    backends: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] | None = Field(default=None, max_length=16)


class Quotas(Wire):
    """How much an org may use; null is as much as there is. Days are of UTC. `stored_bytes` are kept files."""

    concurrent_sessions: Count | None = None
    creates_per_minute: Annotated[int, Field(ge=0, le=MAX_CREATES)] | None = None
    cpu_seconds_per_day: Seconds | None = None
    egress_bytes_per_day: Count | None = None
    stored_bytes: Count | None = None


class OrgTerms(Wire):
    """What the operator grants an org: a floor that it can only narrow, and quotas."""

    floor: OrgPolicy = OrgPolicy()
    quotas: Quotas = Quotas()


class PolicyView(Wire):
    """The operator's floor, what the org narrowed it to, and the two together."""

    floor: OrgPolicy
    own: OrgPolicy
    effective: OrgPolicy


class Meter(Wire):
    """How much is used of a quota; a limit of null is none."""

    used: float
    limit: float | None


class OrgUsage(Wire):
    """What an org uses of each quota at the moment; days end at `resets_at`."""

    concurrent_sessions: Meter
    creates_per_minute: Meter
    cpu_seconds_per_day: Meter
    egress_bytes_per_day: Meter
    stored_bytes: Meter
    resets_at: Timestamp
