"""What the control plane and the broker say to each other: one JSON object a message over a SEQPACKET socket.

The control plane admits sessions and dismisses them; an admission's terms, secrets among them, come as a memory file,
for they may be larger than a message. The broker reports what was attempted, by session.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from enclave.core.egress import Floor
from enclave.core.grant import Grant

MAX_TERMS: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a session may reach. Rules are texts as `enclave.core.egress` reads them; grants hold secrets."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    grants: tuple[Grant, ...] = ()

    @property
    def opens(self) -> bool:
        """Whether there is anything to be reached at all."""
        return bool(self.allow or self.grants)

    def environment(self) -> dict[str, str]:
        """Where a program finds its bindings: a URL of its own network for each."""
        return {variable(grant.name): f"http://{place}" for place, grant in self.places().items()}

    def places(self) -> dict[str, Grant]:
        """The address in the sandbox's own network at which each grant answers."""
        return {f"127.77.0.{number}": grant for number, grant in enumerate(self.grants, 1)}

    def to_bytes(self) -> bytes:
        """As the broker reads it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Terms":
        """The terms in the bytes."""
        fields = json.loads(data)
        grants = tuple(Grant.from_fields(grant) for grant in fields["grants"])
        return cls(allow=tuple(fields["allow"]), deny=tuple(fields["deny"]), grants=grants)


def variable(name: str) -> str:
    """The environment variable in which a session finds the binding of a name."""
    return "ENCLAVE_SVC_" + name.upper().replace("-", "_")


def configure(floor: Floor) -> bytes:
    """The first message."""
    return json.dumps({"op": "configure", **asdict(floor)}).encode()


def read_floor(data: bytes) -> Floor:
    """The floor in the first message."""
    fields = read(data)
    return Floor(deny=tuple(fields["deny"]), private=tuple(fields["private"]), authorities=fields["authorities"])


def admit(number: int) -> bytes:
    """Look after a session; with it go its terms, its listener, its resolver's socket, and its door if it has one."""
    return json.dumps({"op": "admit", "id": number}).encode()


def dismiss(number: int) -> bytes:
    """A session is over: let go of all of it, and report what is left to be told."""
    return json.dumps({"op": "dismiss", "id": number}).encode()


def read(data: bytes) -> Mapping[str, Any]:
    """The fields of a message."""
    fields: Mapping[str, Any] = json.loads(data)
    return fields


def read_terms(memory: int) -> Terms:
    """The terms in a memory file, which is closed."""
    try:
        return Terms.from_bytes(os.pread(memory, MAX_TERMS, 0))
    finally:
        os.close(memory)
