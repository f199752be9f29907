"""What it costs to know a caller: `GET /whoami` by a key that is remembered, beside `GET /healthz`, which asks none.

With the identity authority in the server, and in a process of its own, where the answer is remembered from there.
"""

import contextlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench.figure import Figure, Times, rounds, timed
from enclave.contracts.identity import Credential
from enclave.contracts.keys import MadeKey
from enclave.serve import embedded

BAR_MS = 0.3
_STOP_SECONDS = 10


def measure(scale: float) -> Iterator[Figure]:
    """The figures of both ways."""
    count = max(10, int(4000 * scale))
    with tempfile.TemporaryDirectory() as home, embedded(Path(home)) as credential:
        yield _cost("a known caller, identity embedded", credential, count)
    with tempfile.TemporaryDirectory() as home, separate(Path(home)) as credential:
        yield _cost("a known caller, identity separate", credential, count)
        yield Figure("a caller the first time, identity separate", str(_first(credential, max(5, int(200 * scale)))))


def _cost(what: str, credential: Credential, count: int) -> Figure:
    connection = http.client.HTTPConnection(urlsplit(credential.base_url).netloc)
    bearer = {"Authorization": f"Bearer {credential.api_key}"}
    for _ in range(50):
        _get(connection, "/whoami", bearer)
    with_key, without = [], []
    for _ in rounds(count, what):
        without.append(timed(lambda: _get(connection, "/healthz", {}), time.perf_counter))
        with_key.append(timed(lambda: _get(connection, "/whoami", bearer), time.perf_counter))
    ours, other = Times(with_key), Times(without)
    more = ours.p(50) - other.p(50)
    beside = f"no credential: p50 {other.p(50):.2f} ms; {more:+.3f} ms"
    return Figure(what, str(ours), beside, bar=f"<= {BAR_MS} ms more", holds=more <= BAR_MS)


def _first(credential: Credential, count: int) -> Times:
    connection = http.client.HTTPConnection(urlsplit(credential.base_url).netloc)
    owner = {"Authorization": f"Bearer {credential.api_key}"}
    times = []
    for _ in rounds(count, "a caller the first time"):
        connection.request("POST", "/keys", '{"name": "bench"}', owner)
        key = MadeKey.model_validate_json(connection.getresponse().read())
        bearer = {"Authorization": f"Bearer {key.api_key}"}
        times.append(timed(partial(_get, connection, "/whoami", bearer), time.perf_counter))
    return Times(times)


def _get(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> None:
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status != http.client.OK:
        raise SystemExit(f"{path}: {answer.status}")


@contextlib.contextmanager
def separate(home: Path) -> Iterator[Credential]:
    """An identity service and a control plane, each a process of its own."""
    inside, place = home / "inside", home / "identity"
    service = ("identity", "--home", str(place), "--port", "0", "--internal-socket", str(inside))
    asked = {"ENCLAVE_IDENTITY_URL": f"unix:{inside}", "ENCLAVE_IDENTITY_KEY_FILE": str(place / "service.json")}
    with _served(service, {}), _served(("--home", str(home / "control"), "--port", "0"), asked) as url:
        left = Credential.model_validate_json((place / "credentials.json").read_bytes())
        yield left.model_copy(update={"base_url": url})


@contextlib.contextmanager
def _served(arguments: tuple[str, ...], environment: dict[str, str]) -> Iterator[str]:
    command = (sys.executable, "-m", "enclave", "serve", *arguments)
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield next(word.strip(",") for word in child.stdout.readline().split() if word.startswith("http"))
        finally:
            child.terminate()
            child.wait(_STOP_SECONDS)
