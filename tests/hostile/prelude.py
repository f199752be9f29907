"""What stands before every probe's code: facts about the host that a program may look for, and a few words to say."""

import json
from collections.abc import Mapping
from typing import Final

from tests.hostile.probe import Probe

PYTHON: Final = r"""
import ctypes, errno, os, sys, time
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
def call(number, *args):
    ctypes.set_errno(0)
    got = _libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return -ctypes.get_errno() if got == -1 else got
def named(got):
    return f"leaked: {got}" if got >= 0 else f"blocked: {errno.errorcode[-got]}"
def tell(act):
    try:
        got = act()
    except OSError as error:
        enclave.result(f"blocked: {errno.errorcode.get(error.errno, error.errno)}")
    else:
        enclave.result(f"leaked: {got!r}"[:200])
def check(holds, good, bad="something else"):
    enclave.result(good if holds else f"leaked: {bad}"[:400])
def read(path):
    with open(path) as file:
        return file.read()
"""

NODE: Final = r"""
const fs = require('fs');
const tell = (act) => {
  let got;
  try { got = act(); } catch (error) { enclave.result('blocked: ' + (error.code || error.message)); return; }
  enclave.result(('leaked: ' + got).slice(0, 200));
};
const check = (holds, good, bad) => enclave.result(holds ? good : ('leaked: ' + bad).slice(0, 400));
"""


def whole(probe: Probe, code: str, facts: Mapping[str, object], before: object = None) -> str:
    """A probe's code as it runs."""
    known = json.dumps(facts)
    if probe.language == "node":
        return f"{NODE}\nconst HOST = {known}, BEFORE = {json.dumps(before)};\n{code}"
    return f"{PYTHON}\nimport json\nHOST, BEFORE = json.loads({known!r}), json.loads({json.dumps(before)!r})\n{code}"
