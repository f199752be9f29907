"""Tables, for people: every cell is escaped, and none of it is markup."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from enclave.cli.say import as_json, printable
from enclave.contracts.audit import AuditEvent
from enclave.contracts.bindings import Binding
from enclave.contracts.identity import WhoAmI
from enclave.contracts.keys import Key
from enclave.contracts.members import Member, OpenInvitation
from enclave.contracts.orgs import Org, OrgState
from enclave.contracts.sessions import Session
from enclave.contracts.tenancy import Meter, OrgPolicy, OrgTerms, OrgUsage, PolicyView
from enclave.contracts.webhooks import Delivery
from enclave.contracts.wire import Wire

_PIPE_WIDTH: Final = 10_000
_BAR: Final = 20
_STAMP: Final = frozenset({"ts", "org_id", "session_id", "actor", "seq", "previous", "digest", "type"})
_WHOLE: Final = frozenset(
    {"SESSION", "EVENT", "CONTROL", "BINDING", "KEY", "MEMBER", "ORG", "INVITATION", "QUOTA", "WEBHOOK"}
)
_STYLES: Final[Mapping[str, str]] = {"succeeded": "green", "failed": "red", "killed": "red", "running": "cyan"}


class Check(Protocol):
    """One control of this machine, as `enclave.system.diagnose` tells of it."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def holds(self) -> bool:
        """Whether this machine gives it."""

    @property
    def detail(self) -> str:
        """What was found."""

    @property
    def mend(self) -> str:
        """What to do where it does not hold."""


class Flaw(Protocol):
    """The first entry of a trail that does not hold."""

    @property
    def seq(self) -> int:
        """Which."""

    @property
    def what(self) -> str:
        """Why."""


class Finding(Protocol):
    """What was found of an org's audit trail, as `enclave.proof.verify_audit` tells of it."""

    @property
    def org_id(self) -> str:
        """Whose it is."""

    @property
    def entries(self) -> int:
        """How many entries hold."""

    @property
    def since(self) -> str:
        """When the first of them was written."""

    @property
    def until(self) -> str:
        """When the last was."""

    @property
    def signed(self) -> int:
        """The last entry that a checkpoint attests."""

    @property
    def flaw(self) -> Flaw | None:
        """Where it does not hold."""


class Template(Protocol):
    """An environment of packages, as `enclave.system.list_templates` tells of it."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def language(self) -> str:
        """What it is an environment of."""

    @property
    def packages(self) -> Sequence[str]:
        """What was asked for."""

    @property
    def preload(self) -> Sequence[str]:
        """What is imported ahead."""


def sessions(found: Iterable[Session]) -> None:
    """A line for each session."""
    _print(("SESSION", "PHASE", "LANGUAGE", "CREATED", "SECONDS", "LABELS"), [_session(session) for session in found])


def trail(events: Iterable[AuditEvent]) -> None:
    """A line for each event."""
    _print(("SEQ", "TIME", "EVENT", "ACTOR", "DETAILS"), [_event(event) for event in events])


def findings(found: Sequence[Finding]) -> None:
    """A line for each org: what its trail is, how far it is signed for, and where it does not hold."""
    _print(("ORG", "ENTRIES", "SINCE", "UNTIL", "SIGNED UP TO", ""), [_finding(one) for one in found])


def finding(one: Finding) -> dict[str, JsonValue]:
    """What was found of one org, as JSON."""
    flaw: JsonValue = None if one.flaw is None else {"seq": one.flaw.seq, "what": one.flaw.what}
    return {
        "orgId": one.org_id,
        "holds": flaw is None,
        "entries": one.entries,
        "since": one.since,
        "until": one.until,
        "signedUpTo": one.signed,
        "firstBroken": flaw,
    }


def checks(found: Iterable[Check]) -> None:
    """A line for each control, with what to do where one is missing."""
    _print(("", "CONTROL", "DETAIL", "TO MEND IT"), [_check(check) for check in found])


def templates(found: Iterable[Template]) -> None:
    """A line for each template."""
    _print(("TEMPLATE", "LANGUAGE", "PACKAGES", "PRELOADED"), [_template(template) for template in found])


def bindings(found: Iterable[Binding]) -> None:
    """A line for each binding."""
    heads = ("BINDING", "URL", "INJECTED AS", "METHODS", "PATHS", "UPDATED")
    _print(heads, [_binding(binding) for binding in found])


def keys(found: Iterable[Key]) -> None:
    """A line for each API key."""
    _print(
        ("KEY", "NAME", "ROLE", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "REVOKED"), [_key(key) for key in found]
    )


def members(found: Iterable[Member]) -> None:
    """A line for each member."""
    _print(("MEMBER", "EMAIL", "ROLE"), [[_text(each) for each in (one.id, one.email, one.role)] for one in found])


def deliveries(found: Iterable[Delivery]) -> None:
    """A line for each webhook."""
    heads = ("WEBHOOK", "HOST", "STATE", "ATTEMPTS", "LAST STATUS", "LAST ERROR", "NEXT ATTEMPT", "DELIVERED")
    _print(heads, [_delivery(one) for one in found])


def invitations(found: Iterable[OpenInvitation]) -> None:
    """A line for each invitation that waits."""
    rows = [(one.id, one.email, one.role, _moment(one.expires_at)) for one in found]
    _print(("INVITATION", "EMAIL", "ROLE", "EXPIRES"), [[_text(each) for each in row] for row in rows])


def orgs(found: Iterable[Org]) -> None:
    """A line for each org that one is a member of."""
    rows = [(one.id, one.name, one.role, _moment(one.created_at)) for one in found]
    _print(("ORG", "NAME", "ROLE", "CREATED"), [[_text(each) for each in row] for row in rows])


def org_states(found: Iterable[OrgState]) -> None:
    """A line for each org there is."""
    rows = [(one.id, one.name, _moment(one.created_at), _moment(one.disabled_at)) for one in found]
    _print(("ORG", "NAME", "CREATED", "DISABLED"), [[_text(each) for each in row] for row in rows])


def usage(found: OrgUsage) -> None:
    """A bar for each quota."""
    meters = [(name, value) for name, value in found if isinstance(value, Meter)]
    _print(("QUOTA", "USED", "", ""), [_meter(name, meter) for name, meter in meters])
    print(f"days end at {_moment(found.resets_at)} UTC")


def policy(found: PolicyView) -> None:
    """A line for each thing that is narrowed: by the operator, by the org, and by both."""
    parts = [dict(_narrowed(each)) for each in (found.floor, found.own, found.effective)]
    rows = [(name, *(part[name] for part in parts)) for name in parts[0]]
    _print(("", "FLOOR", "OWN", "IN FORCE"), [[_text(each) for each in row] for row in rows])


def terms(found: OrgTerms) -> None:
    """A line for each part of an org's floor, and for each of its quotas."""
    quotas = [(_spaced(name), _amount(name, value)) for name, value in found.quotas]
    rows = [(f"floor: {name}", value) for name, value in _narrowed(found.floor)]
    rows += [(f"quota: {name}", value) for name, value in quotas]
    _print(("TERM", "AT MOST"), [[_text(each) for each in row] for row in rows])


def caller(found: WhoAmI) -> None:
    """Who one is."""
    _print(("ORG", "WHO", "ROLE", "SCOPES"), [[_text(each) for each in _caller(found)]])


def document(values: Iterable[Wire]) -> None:
    """The values as one JSON list."""
    print(as_json([value.model_dump(mode="json") for value in values]))


def _session(session: Session) -> Sequence[Text]:
    phase = session.phase if session.kill_reason is None else f"{session.phase} ({session.kill_reason})"
    labels = " ".join(f"{name}={value}" for name, value in session.labels.items())
    created = _moment(session.created_at)
    return (
        _text(session.id),
        _text(phase, _STYLES.get(session.phase, "")),
        _text(session.language),
        _text(created),
        _text(_seconds(session)),
        _text(labels),
    )


def _seconds(session: Session) -> str:
    if session.started_at is None or session.finished_at is None:
        return "-"
    return f"{(session.finished_at - session.started_at).total_seconds():.3f}"


def _event(event: AuditEvent) -> Sequence[Text]:
    fields = event.model_dump(mode="json", exclude=set(_STAMP))
    details = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    moment = f"{event.ts:%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return (_text(str(event.seq)), _text(moment), _text(event.type), _text(event.actor), _text(details))


def _check(check: Check) -> Sequence[Text]:
    mark = _text("ok", "green") if check.holds else _text("no", "red")
    return (mark, _text(check.name), _text(check.detail), _text("" if check.holds else check.mend))


def _finding(one: Finding) -> Sequence[Text]:
    flaw = one.flaw
    verdict = _text("holds", "green") if flaw is None else _text(f"entry {flaw.seq} is broken: {flaw.what}", "red")
    signed = f"{one.signed:,}" if one.signed else "-"
    return (_text(one.org_id), _text(f"{one.entries:,}"), _text(one.since), _text(one.until), _text(signed), verdict)


def _template(template: Template) -> Sequence[Text]:
    lists = (" ".join(template.packages), " ".join(template.preload))
    return (_text(template.name), _text(template.language), *(_text(each) for each in lists))


def _binding(binding: Binding) -> Sequence[Text]:
    inject = binding.inject
    injected = " ".join(part for part in (inject.kind, inject.name, inject.template) if part)
    bounds = (" ".join(binding.methods) or "any", " ".join(binding.paths) or "any")
    updated = _moment(binding.updated_at)
    return tuple(_text(each) for each in (binding.name, binding.url, injected, *bounds, updated))


def _key(key: Key) -> Sequence[Text]:
    moments = (key.created_at, key.expires_at, key.last_used_at, key.revoked_at)
    stamps = [_moment(moment) for moment in moments]
    return tuple(_text(each) for each in (key.id, key.name, key.role, " ".join(key.scopes), *stamps))


def _delivery(one: Delivery) -> Sequence[Text]:
    stamps = [f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "-" for moment in (one.next_attempt_at, one.delivered_at)]
    status = "-" if one.last_status is None else str(one.last_status)
    said = (str(one.attempts), status, one.last_error or "", *stamps)
    return tuple(_text(each) for each in (one.id, one.host, one.state, *said))


def _caller(found: WhoAmI) -> Sequence[str]:
    return (found.org_id, found.user_id, found.role, " ".join(found.scopes))


def _meter(name: str, meter: Meter) -> Sequence[Text]:
    used = _amount(name, meter.used)
    if meter.limit is None:
        return (_text(_spaced(name)), _text(""), _text(""), _text(f"{used}, no quota"))
    # Of a quota of nothing, nothing is already all.
    share = min(meter.used / meter.limit, 1.0) if meter.limit else 1.0
    style = "green" if share < 0.75 else "yellow" if share < 1 else "red"
    told = f"{used} of {_amount(name, meter.limit)}"
    return (_text(_spaced(name)), _text(_bar(share), style), _text(f"{share:4.0%}", style), _text(told))


def _bar(share: float) -> str:
    full, empty = ("█", "░") if (sys.stdout.encoding or "").lower().startswith("utf") else ("#", ".")
    # What is used at all is seen.
    length = max(int(share * _BAR), int(share > 0))
    return full * length + empty * (_BAR - length)


def _amount(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if "bytes" in name:
        return _bytes(value)
    return f"{value:.1f} s" if "seconds" in name else f"{value:g}"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def _narrowed(found: OrgPolicy) -> Iterator[tuple[str, str]]:
    for name, value in found.limits:
        yield _spaced(name), "-" if value is None else f"{value:g}"
    for name in ("egress", "deny", "templates", "backends"):
        listed: tuple[str, ...] | None = getattr(found, name)
        unbound = listed is None or (name == "deny" and not listed)
        yield name, "-" if unbound else " ".join(listed or ()) or "none"


def _spaced(name: str) -> str:
    return name.replace("_mib", " (MiB)").replace("_kib", " (KiB)").replace("_", " ")


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "-"


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)


def _print(heads: Sequence[str], rows: Iterable[Sequence[Text]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        # What a person copies, an id above all, is never shortened.
        table.add_column(head, overflow="fold", no_wrap=head in _WHOLE)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=False).print(table)
