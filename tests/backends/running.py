"""One program, run to its end in a backend."""

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from enclave.backends.base import Exit, LaunchSpec, Output
from enclave.backends.local import LocalBackend
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.core.grant import Grant

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Run:
    """How one program went."""

    exit: Exit
    stdout: bytes
    stderr: bytes


RunProgram = Callable[..., Awaitable[Run]]


def spec(
    *,
    language: str = "python",
    template: str | None = None,
    egress: EgressPolicy | None = None,
    bindings: tuple[Grant, ...] = (),
    **limits: float,
) -> LaunchSpec:
    """A launch with the default limits but those given."""
    return LaunchSpec(
        session_id=f"ses_test{next(_numbers)}",
        language=Language(language),
        limits=SessionLimits().model_copy(update=limits),
        egress=egress or EgressPolicy(),
        template=template,
        bindings=bindings,
    )


async def run_in(
    backend: LocalBackend, code: str, *, language: str = "python", template: str | None = None, **limits: float
) -> Run:
    """Run a program to its end, and tear its sandbox down."""
    sandbox = await backend.launch(spec(language=language, template=template, egress=None, bindings=(), **limits))
    workload = await sandbox.run(code)
    written = {"stdout": b"", "stderr": b""}
    async for output in workload.output():
        if isinstance(output, Output):
            written[output.stream] += output.data
    ended = await workload.wait()
    await sandbox.teardown()
    return Run(ended, written["stdout"], written["stderr"])
