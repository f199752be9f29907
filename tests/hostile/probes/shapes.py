"""Shapes that many probes share."""

import platform
from typing import Final

from tests.hostile.probe import Expect, Probe, blocked, killed

_COLUMN: Final = 0 if platform.machine() == "x86_64" else 1


def number(x86_64: int, aarch64: int) -> int:
    """A system call's number on this machine."""
    return (x86_64, aarch64)[_COLUMN]


def told(family: str, name: str, act: str, refused: str, control: str) -> Probe:
    """One expression that has to be refused with one error."""
    return Probe(name=name, family=family, code=f"tell(lambda: {act})", expect=blocked(refused), control=control)


def raw(family: str, name: str, call: str, refused: str, control: str) -> Probe:
    """One raw system call, `call` being its number and arguments, that has to be refused with one error."""
    code = f"enclave.result(named(call({call})))"
    return Probe(name=name, family=family, code=code, expect=blocked(refused), control=control)


def exploit(family: str, name: str, call: str) -> Probe:
    """One raw system call that only an exploit makes: the session is ended for it."""
    code = f"enclave.result('leaked: ' + named(call({call})))"
    return Probe(name=name, family=family, code=code, expect=killed("syscall_forbidden"), control="exploits")


def node(family: str, name: str, code: str, expect: Expect, control: str, **limits: float) -> Probe:
    """A program for Node."""
    return Probe(
        name=name,
        family=family,
        code=code,
        expect=expect,
        control=control,
        language="node",
        limits={"memory_mib": 512, **limits},
    )
