"""Namespaces are entered and made by nobody inside, and no capability is to be had."""

import os
from typing import Final

from tests.hostile.probe import Probe, blocked
from tests.hostile.probes.shapes import node, number, raw, told

_F: Final = "namespaces_and_capabilities"
_FLAGS: Final = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
_UNSHARE, _CLONE, _SETNS = number(272, 97), number(56, 220), number(308, 268)
_CAPSET, _CLONE3 = number(126, 91), 435
_SUID: Final = next((p for p in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd") if os.path.exists(p)), "")
_ROOT: Final = "real_root+capabilities"


def _needs(name: str) -> str:
    return "seccomp" if name == "user" else "seccomp+capabilities"


def _clone(name: str, flags: int, control: str) -> Probe:
    code = f"got = call({_CLONE}, {flags | 17}, 0, 0, 0, 0)\nif got == 0: os._exit(0)\nenclave.result(named(got))"
    return Probe(name=f"clone_{name}", family=_F, code=code, expect=blocked("EPERM"), control=control)


PROBES: Final = (
    *[raw(_F, f"unshare_{name}", f"{_UNSHARE}, {flag}", "EPERM", _needs(name)) for name, flag in _FLAGS.items()],
    *[_clone(name, flag, _needs(name)) for name, flag in _FLAGS.items() if name != "time"],
    _clone("user_and_mount", 0x10020000, "seccomp"),
    _clone("user_and_net", 0x50000000, "seccomp"),
    raw(_F, "clone3", f"{_CLONE3}, -1, 88", "ENOSYS", "seccomp"),
    raw(_F, "clone3_user", f"{_CLONE3}, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88", "ENOSYS", "seccomp"),
    *[
        Probe(
            name=f"setns_{name}",
            family=_F,
            code=f"fd = os.open('/proc/self/ns/{name}', os.O_RDONLY)\nenclave.result(named(call({_SETNS}, fd, 0)))",
            expect=blocked("EPERM"),
            control=control,
        )
        for name, control in {
            "net": "seccomp+real_root+capabilities",
            "user": "seccomp",
            "uts": "seccomp+real_root+capabilities",
        }.items()
    ],
    raw(_F, "setns_no_descriptor", f"{_SETNS}, -1, 0", "EPERM", "seccomp"),
    Probe(
        name="capset_raises",
        family=_F,
        code="header = (ctypes.c_uint32 * 2)(0x20080522, 0)\nasked = (ctypes.c_uint32 * 6)(1 << 21, 1 << 21)\n"
        f"enclave.result(named(call({_CAPSET}, header, asked)))",
        expect=blocked("EPERM"),
        control="capabilities",
    ),
    *[
        Probe(
            name=f"capabilities_{kind.lower()}",
            family=_F,
            code=f"line = next(l for l in open('/proc/self/status') if l.startswith('Cap{kind}'))\n"
            "check(int(line.split()[1], 16) == 0, 'blocked: none', line)",
            expect=blocked("none"),
            control=control,
        )
        for kind, control in {"Prm": "capabilities", "Eff": "capabilities", "Bnd": "capabilities"}.items()
    ],
    *[
        Probe(
            name=name,
            family=_F,
            code=f"line = next(l for l in open('/proc/self/status') if l.startswith('{field}:'))\n"
            f"check(line.split()[1:] == {value!r}, 'blocked: held', line)",
            expect=blocked("held"),
            control=control,
        )
        for name, field, value, control in (
            ("no_new_privileges", "NoNewPrivs", ["1"], "seccomp+landlock+no_new_privs"),
            ("filter_is_on", "Seccomp", ["2"], "seccomp"),
            ("one_filter", "Seccomp_filters", ["1"], "seccomp"),
            ("no_groups", "Groups", [], "real_root+groups"),
        )
    ],
    raw(_F, "ambient_capability", f"{number(157, 167)}, 47, 4, 0, 0, 0", "EPERM", "seccomp"),
    told(_F, "setuid_root", "os.setuid(0)", "EINVAL", "user_ns"),
    told(_F, "setgid_root", "os.setgid(0)", "EINVAL", "user_ns"),
    told(_F, "setresuid_host", "os.setresuid(0, 0, 0)", "EINVAL", "user_ns"),
    told(_F, "setgroups", "os.setgroups([0])", "EPERM", _ROOT),
    told(_F, "chown_to_root", "os.chown('main.py', 0, 0)", "EINVAL", "user_ns"),
    told(_F, "file_capability", "os.setxattr('main.py', 'security.capability', bytes.fromhex("
         "'0100000200040000000000000000000000000000'))", "EPERM", "capabilities"),
    told(_F, "trusted_xattr", "os.setxattr('main.py', 'trusted.x', b'y')", "EPERM", _ROOT),
    told(_F, "raise_priority", "os.setpriority(os.PRIO_PROCESS, 0, -20)", "EACCES", _ROOT),
    told(_F, "chroot", "os.chroot('/work')", "EPERM", "seccomp+capabilities"),
    *(
        [
            Probe(
                name="setuid_program_has_no_effect",
                family=_F,
                code="import subprocess\n"
                f"said = subprocess.run([{_SUID!r}, '--version'], env={{'LD_SHOW_AUXV': '1'}}, capture_output=True, "
                "text=True).stdout\nauxv = {l.split()[0]: l.split()[1] for l in said.splitlines() if l[:3] == 'AT_'}\n"
                "check((auxv.get('AT_EUID:'), auxv.get('AT_SECURE:')) == ('1000', '0'), 'blocked: as anyone', auxv)",
                expect=blocked("as anyone"),
                control="seccomp+landlock+no_new_privs+writable_runtime+user_ns",
            )
        ]
        if _SUID
        else []
    ),
    Probe(
        name="own_setuid_file_has_no_effect",
        family=_F,
        code="import shutil, subprocess\nshutil.copy('/usr/bin/id', 'i')\nos.chmod('i', 0o6755)\n"
        "said = subprocess.run(['./i', '-u'], capture_output=True, text=True).stdout.strip()\n"
        "check(said == '1000', 'blocked: same id', said)",
        expect=blocked("same id"),
        control="user_ns",
    ),
    node(_F, "node_setuid", "tell(() => process.setuid(0))", blocked("EINVAL"), "user_ns"),
    node(
        _F,
        "node_spawns_as_root",
        "const done = require('child_process').spawnSync('id', ['-u'], { uid: 0 });\n"
        "enclave.result(done.error ? 'blocked: ' + done.error.code : 'leaked: ' + done.stdout);",
        blocked("EINVAL"),
        "user_ns",
    ),
    node(
        _F,
        "node_unshares_by_program",
        "const done = require('child_process').spawnSync('unshare', ['-Ur', 'id', '-u'], { encoding: 'utf8' });\n"
        "check(done.status === 1 && /not permitted/.test(done.stderr), 'blocked: EPERM', done.stdout + done.stderr);",
        blocked("EPERM"),
        "seccomp",
    ),
)  # fmt: skip
