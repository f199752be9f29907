"""What it costs that a session is held against quotas and policies: its time with all of them set, beside none."""

from collections.abc import Iterator
from pathlib import Path

from bench.caller import PYTHON, Caller
from bench.figure import Figure, Times, against, rounds
from enclave.contracts.identity import Credential

_RULES = [f"{number}.example.org" for number in range(256)]
_QUOTAS = {
    "concurrentSessions": 10_000,
    "createsPerMinute": 100_000,
    "cpuSecondsPerDay": 1e9,
    "egressBytesPerDay": 1 << 50,
    "storedBytes": 1 << 50,
}
_FLOOR = {"egress": _RULES, "deny": _RULES, "templates": ["none"], "backends": ["local"]}
TERMS = {"session": {"quotas": _QUOTAS, "floor": _FLOOR}, "none": {}}


def checked(caller: Caller, home: Path, count: int) -> Iterator[Figure]:
    operator = Caller(Credential.model_validate_json((home / "operator.json").read_bytes()))
    path = f"/operator/orgs/{caller.send('GET', '/whoami')['orgId']}/terms"
    times: dict[str, list[float]] = {name: [] for name in TERMS}
    for _ in rounds(count, "quotas"):
        for name, terms in TERMS.items():
            operator.send("PUT", path, terms)
            caller.run(PYTHON)  # the first after a change works its policies out
            times[name].append(caller.time(PYTHON))
    operator.close()
    yield against("under quotas and policies", Times(times["session"]), "under none", Times(times["none"]))
