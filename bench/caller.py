"""A client of the server that is measured, as thin as one can be: http.client on one kept-alive connection."""

import http.client
import json
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from bench.figure import timed
from enclave.contracts.identity import Credential

PYTHON = "print('hi')"


class Caller:
    """One connection."""

    def __init__(self, credential: Credential) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(credential.base_url).netloc)
        self._headers = {"Authorization": f"Bearer {credential.api_key}", "Content-Type": "application/json"}

    def run(self, code: str, language: str = "python", template: str | None = None) -> Any:
        """Run a program that prints `hi` to its end; what it handed over as its result."""
        session = self.send("POST", "/sessions", {"code": code, "language": language, "template": template}, wait=60)
        if session.get("phase") != "succeeded" or session["result"]["stdout"] != "hi\n":
            raise SystemExit(f"a session went wrong: {session}")
        return session["result"]["result"]

    def send(self, method: str, path: str, body: object = None, *, wait: int = 0) -> Any:
        """Any request; what was answered."""
        data = None if body is None else json.dumps(body)
        self._connection.request(
            method, path, data, {**self._headers, "Prefer": f"wait={wait}"} if wait else self._headers
        )
        return json.loads(self._connection.getresponse().read())

    def calling_with(self, api_key: str) -> "Caller":
        """The same connection, from now on with this key."""
        self._headers["Authorization"] = f"Bearer {api_key}"
        return self

    def time(self, code: str, language: str = "python", template: str | None = None) -> float:
        """Milliseconds that a session takes."""
        return timed(lambda: self.run(code, language, template), time.perf_counter)

    def close(self) -> None:
        """Let go of the connection; the next request opens another."""
        self._connection.close()


def together(credential: Credential, threads: int, each: int) -> float:
    """Seconds that `threads` callers take for `each` sessions apiece, started at once."""
    gate = threading.Barrier(threads + 1)
    failures: list[BaseException] = []

    def work() -> None:
        caller = Caller(credential)
        gate.wait()
        try:
            for _ in range(each):
                caller.run(PYTHON)
        except BaseException as error:  # reported by the main thread
            failures.append(error)
        caller.close()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began
