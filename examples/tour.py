"""What Enclave does, in one run: a server, programs good and bad, and what became of each.

`make run` starts it. It talks to a server that is already running if there is one, else it starts one for the tour.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from enclave import Enclave
from enclave.contracts.errors import EnclaveError
from enclave.contracts.frames import StderrFrame, StdoutFrame
from enclave.contracts.identity import Credential
from enclave.contracts.policy import RequestedLimits
from enclave.contracts.sessions import CreateSessionRequest, Language, Session

HERE = Path(__file__).parent
MOST_LINES = 8
BOLD, DIM, GREEN, RED, PLAIN = (
    ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else [""] * 5
)


@dataclass(frozen=True)
class Stop:
    """A program of the tour, and the verdict it must get."""

    file: str
    title: str
    verdict: str
    language: Language = Language.PYTHON
    limits: RequestedLimits = field(default_factory=RequestedLimits)


STOPS = (
    Stop("clean.py", "a program that streams and returns a result", "succeeded"),
    Stop("clean.js", "the same in Node", "succeeded", language=Language.NODE),
    Stop("exfiltrate.py", "one that looks for secrets and a way out", "succeeded"),
    Stop("fork_bomb.py", "a fork bomb", "pids_exceeded"),
    Stop("memory_balloon.py", "a memory balloon", "memory_exceeded", limits=RequestedLimits(memory_mib=128)),
    Stop("endless.py", "one that will not end", "cpu_exceeded", limits=RequestedLimits(cpu_seconds=0.5)),
)


@contextlib.contextmanager
def server() -> Iterator[tuple[Credential | None, str]]:
    """A server to talk to: the one that runs, else one for as long as this takes."""
    with contextlib.suppress(EnclaveError), Enclave() as running:
        running.health()
        yield None, "a server that was already running"
        return
    from enclave.serve import embedded

    home = Path(os.environ.get("ENCLAVE_HOME") or Path.home() / ".enclave")
    with embedded(home) as credential:
        yield credential, "a server started for this tour"


def show(session: Session) -> str:
    """The verdict on one line."""
    result = session.result
    reason = session.kill_reason or session.phase
    seconds = (result.duration_ms if result else 0) / 1000
    value = f", result {result.result}" if result and result.result is not None else ""
    return f"{reason} after {seconds:.2f} s{value}"


def visit(enclave: Enclave, stop: Stop) -> bool:
    """Run one program, print what it prints as it prints it, and tell whether it got its verdict."""
    print(f"\n{BOLD}{stop.title}{PLAIN} {DIM}examples/{stop.file}{PLAIN}")
    request = CreateSessionRequest(
        code=(HERE / stop.file).read_text(),
        language=stop.language,
        limits=stop.limits,
        labels={"example": stop.file},
    )
    handle = enclave.run(request)
    shown, unfinished = 0, ""
    for frame in handle.stream():
        if isinstance(frame, StdoutFrame | StderrFrame):
            *lines, unfinished = (unfinished + frame.chunk).split("\n")
            for line in lines[: MOST_LINES - shown]:
                print(f"  | {line}", flush=True)
                shown += 1
    session = handle.refresh()
    as_expected = (session.kill_reason or session.phase) == stop.verdict
    print(f"  {GREEN if as_expected else RED}{'✓' if as_expected else '✗'} {show(session)}{PLAIN}")
    return as_expected


def main() -> int:
    """Run the tour; 0 when every program got its verdict."""
    began = time.perf_counter()
    try:
        with server() as (credential, how), client(credential) as enclave:
            print(f"Enclave: {how}, backend {enclave.health().backend}")
            verdicts = [visit(enclave, stop) for stop in STOPS if stop.language != Language.NODE or has_node()]
    except EnclaveError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        print("what this machine can enforce, and what to do: .venv/bin/enclave doctor", file=sys.stderr)
        return 1
    print(f"\n{sum(verdicts)} of {len(verdicts)} got their verdict, in {time.perf_counter() - began:.1f} s. Next:")
    print("  .venv/bin/enclave run examples/clean.py        run a program; output is live")
    print("  .venv/bin/enclave serve                        keep a server running: http://127.0.0.1:8088/docs")
    print("  .venv/bin/enclave doctor                       what this machine can enforce")
    return 0 if all(verdicts) else 1


def client(credential: Credential | None) -> Enclave:
    """A client of the server the tour talks to."""
    return Enclave(credential.base_url, api_key=credential.api_key) if credential else Enclave()


def has_node() -> bool:
    """Whether Node.js programs can run here."""
    import shutil

    return shutil.which("node") is not None


if __name__ == "__main__":
    sys.exit(main())
