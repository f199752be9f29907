"""Forgery: what a program says on descriptors that are not its own counts only against itself."""

from typing import Final

from tests.hostile.probe import LOST, Expect, Probe, Verdict, ended, harmless
from tests.hostile.probes.shapes import node

_F: Final = "forgery"
_OWN: Final = "fixed: the descriptor is the program's own; what holds is that nothing outside believes it"
_FRAME: Final = "def frame(b): return len(b).to_bytes(4, 'little') + b\n"
_CLOSED: Final = "fixed: the streams are closed when the end is reported, before the rest is killed"
_EMPTY: Final = f"refused: the value is 0 bytes of JSON; at most {1 << 20} are taken"
_TOO_LARGE: Final = f"refused: the value is {(1 << 32) - 1} bytes of JSON; at most {1 << 20} are taken"


def _ends(name: str, code: str, expect: Expect, control: str = _OWN) -> Probe:
    return Probe(name=name, family=_F, code=code, expect=expect, control=control)


_CODES: Final = {
    "exit_256": ("sys.exit(256)", 0),
    "exit_minus_one": ("sys.exit(-1)", 255),
    "exit_137": ("os._exit(137)", 137),
    "exit_text": ("sys.exit('no')", 1),
    "exit_by_signal": ("os.kill(os.getpid(), 9)", 137),
    "exit_by_exec": ("os.execv('/bin/sh', ['sh', '-c', 'exit 7'])", 7),
    "exit_by_stack": ("import resource\ndef f(): f()\nf()", 1),
    "exit_by_abort": ("os.abort()", 134),
    "exit_by_null": ("ctypes.string_at(0)", 139),
    "exit_handler_changes_code": ("import atexit\natexit.register(os._exit, 9)\nsys.exit(3)", 9),
}
_GAMES: Final = {
    "stdout_nonblocking": "import fcntl\nfcntl.fcntl(1, 4, os.O_NONBLOCK | os.O_APPEND)\nprint('x')",
    "stdout_direct": "import fcntl\nfcntl.fcntl(1, 4, os.O_DIRECT)\nfor _ in range(50): os.write(1, b'x')",
    "stdout_grown": "import fcntl\nfcntl.fcntl(1, 1031, 1 << 20)\nprint('x')",
    "stdout_shrunk": "import fcntl\nfcntl.fcntl(1, 1031, 4096)\nprint('x')",
    "stdout_signals": "import fcntl\nfor who in (1, -1, os.getpid()):\n"
    " try: fcntl.fcntl(1, 8, who)\n except OSError: pass\n"
    "__import__('signal').signal(29, __import__('signal').SIG_IGN)\nfcntl.fcntl(1, 4, os.O_ASYNC)\nprint('x')",
    "stdout_kill_signal_to_init": "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, 8, 1)\nfcntl.fcntl(r, 10, 9)\n"
    "fcntl.fcntl(r, 4, os.O_ASYNC)\nos.write(w, b'x')\ntime.sleep(.05)",
    "stdout_lease": "import fcntl\ntry: fcntl.fcntl(1, 1024, 1)\nexcept OSError: pass",
    "stdout_closed": "os.close(1); os.close(2)",
    "stdout_not_text": "os.write(1, bytes(range(256)) * 4)",
    "descriptors_passed": "import socket\na, b = socket.socketpair()\nfor _ in range(200):\n"
    " try: socket.send_fds(a, [b'x'], [1, 5, 6, b.fileno()])\n except OSError: break",
    "result_channel_nonblocking": "import fcntl\nfcntl.fcntl(5, 4, os.O_NONBLOCK)",
    "result_channel_shrunk": "import fcntl\nfcntl.fcntl(5, 1031, 4096)",
    "streams_swapped": "os.dup2(2, 1); os.dup2(1, 2)",
    "escape_sequences": "print('\\x1b]0;x\\x07\\x1b[2J\\r\\n' + chr(0) * 10)",
}
_STATUS: Final = {
    "garbage": "b'nonsense'",
    "ready_again": "b'R'",
    "failure": "b'E' + b'x' * 200",
    "short_exit": "b'X'",
    "ready_flood": "b'R' * 9000",
    "zeros": "bytes(64)",
}

PROBES: Final = (
    *[_ends(name, code, ended(value)) for name, (code, value) in _CODES.items()],
    *[_ends(k, f"{code}\nenclave.result('harmless: nothing came of it')", harmless("nothing came of it"))
      for k, code in _GAMES.items()],
    *[_ends(f"status_{k}", f"os.write(6, {data})\ntime.sleep(5)", LOST) for k, data in _STATUS.items()],
    _ends("status_exit_zero", "os.write(6, b'X' + bytes(4))\ntime.sleep(5)", ended(0)),
    _ends("status_exit_then_run_on",
          "os.write(6, b'X' + (3 << 8).to_bytes(4, 'little'))\ntime.sleep(1)\nenclave.result('leaked: ran on')",
          ended(3)),
    _ends("status_all_bits", "os.write(6, b'X' + bytes([255] * 4))\ntime.sleep(5)", ended(255)),
    _ends("status_by_a_child", "if os.fork() == 0: os.write(6, b'X' + bytes(4))\ntime.sleep(5)", ended(0)),
    _ends("status_descriptor_closed", "os.close(6)\nsys.exit(3)", ended(3)),
    Probe(name="status_does_not_hide_a_limit", family=_F,
          code="for _ in range(120):\n try:\n  if os.fork() == 0: time.sleep(3); os._exit(0)\n"
          " except OSError: break\nos.write(6, b'X' + bytes(4))\ntime.sleep(5)",
          expect=Expect(Verdict.CONTAINED, code=None, reason="pids_exceeded"), control="tasks_bound",
          limits={"pids": 16}),
    _ends("result_forged", f"{_FRAME}os.write(5, frame(b'\"harmless: own\"'))", harmless("own")),
    _ends("result_last_counts", "enclave.result('leaked: first')\nenclave.result('harmless: last')", harmless("last")),
    _ends("result_not_json", f"{_FRAME}os.write(5, frame(b'{{nonsense'))", ended(0, "not JSON")),
    _ends("result_not_text", f"{_FRAME}os.write(5, frame(bytes([255, 254, 0])))", ended(0, "not JSON")),
    _ends("result_nested", f"{_FRAME}os.write(5, frame(b'[' * 60000))", ended(0, "not JSON")),
    _ends("result_cut_short", "os.write(5, bytes([9, 0, 0, 0, 1]))", ended(0, "refused: the value was cut short")),
    _ends("result_huge_length", "os.write(5, bytes([255] * 4))", ended(0, _TOO_LARGE)),
    _ends("result_huge_length_then_flood",
          "os.write(5, bytes([255] * 4))\nfor _ in range(400): os.write(5, b'x' * 65536)",
          ended(0, _TOO_LARGE)),
    _ends("result_empty", "os.write(5, bytes(4))", ended(0, _EMPTY)),
    _ends("result_flood", "for _ in range(3000): enclave.result('leaked')\nenclave.result('harmless: last')",
          harmless("last")),
    _ends("result_flood_of_large_ones", "for _ in range(40): enclave.result('leaked' + 'x' * 300000)",
          ended(0, f"refused: more than {8 << 20} bytes of results were handed over"), "result_bound"),
    _ends("result_from_two_processes",
          "pid = os.fork()\nenclave.result('harmless: either')\nif pid == 0: os._exit(0)\nos.wait()",
          harmless("either")),
    _ends("result_after_exit", "if os.fork() == 0:\n time.sleep(.2)\n enclave.result('leaked: after the end')\n"
          " os._exit(0)\nenclave.result('harmless: in time')", harmless("in time"), _CLOSED),
    _ends("result_channel_closed", "os.close(5)\nsys.exit(4)", ended(4)),
    _ends("output_after_exit", "if os.fork() == 0:\n time.sleep(.2)\n os.write(1, b'leaked')\n os._exit(0)\n"
          "enclave.result('harmless: quiet')", Expect(Verdict.HARMLESS, "harmless: quiet", printed=0), _CLOSED),
    node(_F, "node_status_is_closed", "let code; try { fs.writeSync(6, 'X\\0\\0\\0\\0'); code = 'written'; } "
         "catch (e) { code = e.code; }\nenclave.result(code === 'EBADF' ? 'blocked: EBADF' : 'harmless: ' + code);",
         Expect(Verdict.BLOCKED, "blocked: EBADF"), _OWN),
    node(_F, "node_result_forged", "fs.writeSync(5, Buffer.from([255, 255, 255, 255]))", ended(0, _TOO_LARGE), _OWN),
    node(_F, "node_exit_code", "process.exitCode = 7", ended(7), _OWN),
    node(_F, "node_abort", "process.abort()", ended(134), _OWN),
    node(_F, "node_uncaught", "throw new Error('x')", ended(1), _OWN),
    node(_F, "node_kills_itself", "process.kill(process.pid, 'SIGKILL')", ended(137), _OWN),
)  # fmt: skip
