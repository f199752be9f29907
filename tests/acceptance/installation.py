"""Two orgs on one server, driven from outside: it in a process of its own, and by a client that is not ours."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlsplit

from enclave.contracts.audit import AuditEvent
from enclave.contracts.identity import Role
from enclave.contracts.operations import Operation
from enclave.identity.home import private_home
from enclave.identity.service import Identity
from enclave.serve import embedded

PASSWORD: Final = "correct horse battery"
OPERATOR_FILE: Final = "operator.json"
CODE: Final = "import os; os.mkdir('out'); open('out/a.txt', 'w').write('a')"
BINDING: Final = {"url": "https://api.example.org", "inject": {"kind": "bearer"}, "secret": "s3cret"}


@dataclass(frozen=True)
class Reply:
    """An answer, as it came: its status line, its headers in their order but the date, its body."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Asks, on a connection for each request, from an address of this machine; may be shared by threads."""

    netloc: str
    source: str = ""

    def ask(self, method: str, path: str, body: object = None, credential: str | None = None, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"authorization": f"Bearer {credential}"} if credential is not None else {}
        with closing(HTTPConnection(self.netloc, timeout=30, source_address=(self.source, 0))) as connection:
            connection.request(method, path, data, {**given, **headers})
            answer = connection.getresponse()
            kept = tuple(pair for pair in answer.getheaders() if pair[0].lower() != "date")
            return Reply(answer.status, answer.reason, kept, answer.read())

    def get(self, method: str, path: str, body: object = None, credential: str | None = None, **headers: str) -> Any:
        """What is answered, which must be no refusal."""
        reply = self.ask(method, path, body, credential, **headers)
        assert reply.status < 300, (method, path, reply)
        return reply.json


@dataclass
class Org:
    """An org, seen by its owner: a token and a key of each role."""

    id: str
    owner: str
    tokens: dict[Role, str] = field(default_factory=dict)
    refresh: dict[Role, str] = field(default_factory=dict)
    keys: dict[Role, str] = field(default_factory=dict)
    emails: dict[Role, str] = field(default_factory=dict)

    def callers(self) -> dict[str, str]:
        """Every credential, by what it is."""
        tokens = {f"{role} with a token": token for role, token in self.tokens.items()}
        return tokens | {f"{role} with a key": key for role, key in self.keys.items()}


@dataclass(frozen=True)
class Installation:
    """A server with two orgs."""

    home: Path
    client: Client
    a: Org
    b: Org

    @property
    def operator(self) -> str | None:
        """The operator's credential, where there is one."""
        path = self.home / OPERATOR_FILE
        return json.loads(path.read_text())["apiKey"] if path.exists() else None

    def callers(self) -> Mapping[str, str | None]:
        """Everybody who may call as somebody of the first org, the operator, and nobody."""
        operator = {"operator": self.operator} if self.operator else {}
        return {**self.a.callers(), **operator, "nobody": None}

    def join(self, org: Org, role: Role, email: str) -> Any:
        """The tokens of a new member."""
        code = self.client.get("POST", "/invitations", {"email": email, "role": role}, org.owner)["code"]
        return self.client.get("POST", "/invitations/accept", {"code": code, "password": PASSWORD})

    def made(self, operation: Operation, org: Org) -> dict[str, str]:
        """What is in the operation's path, of something that was just made in the org."""
        kind = operation.path.removeprefix("/operator").split("/")[1]
        return MAKERS[kind](self, org)


def _session(at: Installation, org: Org) -> dict[str, str]:
    made = at.client.get("POST", "/sessions", {"code": CODE}, org.owner, prefer="wait=30")
    assert made["phase"] == "succeeded", made
    return {"id": made["id"], "path": "a.txt"}


def _key(at: Installation, org: Org) -> dict[str, str]:
    body = {"name": "made", "role": "viewer", "scopes": ["sessions:read"]}
    return {"id": at.client.get("POST", "/keys", body, org.owner)["id"]}


def _member(at: Installation, org: Org) -> dict[str, str]:
    joined = at.join(org, Role.VIEWER, f"{token_hex(8)}@example.org")
    return {"id": at.client.get("GET", "/whoami", credential=joined["token"])["userId"]}


def _binding(at: Installation, org: Org) -> dict[str, str]:
    name = f"of-{org.emails[Role.OWNER][0]}"
    at.client.get("PUT", f"/bindings/{name}", BINDING, org.owner)
    return {"name": name}


def _invitation(at: Installation, org: Org) -> dict[str, str]:
    body = {"email": "somebody@example.org", "role": "viewer"}
    return {"id": at.client.get("POST", "/invitations", body, org.owner)["id"]}


def _delivery(at: Installation, org: Org) -> dict[str, str]:
    body = {"code": CODE, "webhookUrl": "https://receiver.invalid/"}  # RFC 6761: no name server knows it
    made = at.client.get("POST", "/sessions", body, org.owner, prefer="wait=30")
    (one,) = at.client.get("GET", f"/webhooks/deliveries?session={made['id']}", None, org.owner)["items"]
    return {"id": one["id"]}


def _org(_: Installation, org: Org) -> dict[str, str]:
    return {"id": org.id}


MAKERS: Final = {
    "sessions": _session,
    "keys": _key,
    "members": _member,
    "bindings": _binding,
    "invitations": _invitation,
    "orgs": _org,
    "webhooks": _delivery,
}
"""How something is made that a path can name, by the path's first part."""


def missing(named: Mapping[str, str]) -> dict[str, str]:
    """The same shape, of nothing that there is."""
    return {name: value if name == "path" else re.sub(r"[0-9a-z]+$", _zeros, value) for name, value in named.items()}


def _zeros(found: re.Match[str]) -> str:
    return "0" * len(found[0])


@contextmanager
def installation(home: Path) -> Iterator[Installation]:
    """A server with two orgs, each with a member of each role, who has signed in and has a key."""
    private_home(home)
    # The first org of a home is made when a server starts there; one beside it by the authority itself.
    with closing(Identity.open(home, _later, now=lambda: datetime.now(UTC)).authority) as authority:
        owner = authority.owner("boss@example.org")
        key = str(authority.issue_key(owner))
    with embedded(home) as credential:
        client = Client(urlsplit(credential.base_url).netloc)
        first = client.get("GET", "/whoami", credential=credential.api_key)["orgId"]
        orgs = (Org(first, credential.api_key), Org(owner.org_id, key))
        made = Installation(home, client, *orgs)
        for name, org in zip("ab", orgs, strict=True):
            _people(made, org, name)
        yield made


def _people(made: Installation, org: Org, name: str) -> None:
    for role in Role:
        org.emails[role] = f"{name}-{role}@example.org"
        tokens = made.join(org, role, org.emails[role])
        org.tokens[role], org.refresh[role] = tokens["token"], tokens["refreshToken"]
        body = {"name": role, "role": role}
        org.keys[role] = made.client.get("POST", "/keys", body, org.owner)["apiKey"]


async def _later(key: str, event: AuditEvent) -> None:
    raise NotImplementedError
