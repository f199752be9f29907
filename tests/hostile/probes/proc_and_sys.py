"""/proc and /sys: init is out of reach, the host's figures are masked, settings are read-only, namespaces are own."""

import os
from typing import Final

from tests.hostile.probe import Probe, blocked, harmless
from tests.hostile.probes.shapes import node, told

_F: Final = "proc_and_sys"
_INIT: Final = {
    "init_environ": "open('/proc/1/environ').read()",
    "init_mem_read": "open('/proc/1/mem', 'rb')",
    "init_mem_write": "open('/proc/1/mem', 'r+b', buffering=0)",
    "init_maps": "open('/proc/1/maps').read()",
    "init_root": "os.listdir('/proc/1/root')",
    "init_cwd": "os.listdir('/proc/1/cwd')",
    "init_exe": "os.readlink('/proc/1/exe')",
    "init_descriptors": "os.listdir('/proc/1/fd')",
    "init_namespace": "os.readlink('/proc/1/ns/net')",
    "init_auxv": "open('/proc/1/auxv', 'rb').read()",
    "init_timers": "open('/proc/1/timers').read()",
    "init_oom_score": "open('/proc/1/oom_score_adj', 'w')",
    "init_task_root": "os.listdir('/proc/1/task/1/root')",
}
_MASKED: Final = (
    "kcore keys key-users kmsg kallsyms kpagecount kpageflags kpagecgroup sysrq-trigger timer_list vmallocinfo slabinfo"
    " config.gz modules sched_debug interrupts buddyinfo cgroups cmdline diskstats iomem ioports pagetypeinfo"
    " partitions softirqs swaps zoneinfo sys/kernel/random/boot_id".split()
)
_SETTINGS: Final = {
    "core_pattern": "/proc/sys/kernel/core_pattern",
    "modprobe": "/proc/sys/kernel/modprobe",
    "hotplug": "/proc/sys/kernel/hotplug",
    "last_pid": "/proc/sys/kernel/ns_last_pid",
    "hostname": "/proc/sys/kernel/hostname",
    "randomize_va_space": "/proc/sys/kernel/randomize_va_space",
    "sysrq": "/proc/sys/kernel/sysrq",
    "drop_caches": "/proc/sys/vm/drop_caches",
    "overcommit": "/proc/sys/vm/overcommit_memory",
    "ip_forward": "/proc/sys/net/ipv4/ip_forward",
    "user_namespaces": "/proc/sys/user/max_user_namespaces",
    "shmmax": "/proc/sys/kernel/shmmax",
    "file_max": "/proc/sys/fs/file-max",
    "irq_affinity": "/proc/irq/default_smp_affinity",
}
_NAMESPACES: Final = {
    "cgroup": "cgroup_ns",
    "ipc": "ipc_ns",
    "mnt": "fixed: without it the launcher's own shows, not the host's; mounts_do_not_grow tells",
    "net": "net_ns",
    "pid": "pid_ns+launcher_ns",
    "user": "user_ns",
    "uts": "uts_ns",
}


def _masked(name: str) -> Probe:
    path = f"/proc/{name}"
    return Probe(
        name=f"masked_{name.replace('-', '_').replace('.', '_').replace('/', '_')}",
        family=_F,
        code=f"check(os.stat({path!r}).st_rdev == os.makedev(1, 3) and read({path!r}) == '', 'blocked: empty')",
        expect=blocked("empty"),
        control="masks",
    )


def _namespace(name: str, control: str) -> Probe:
    link = f"os.readlink('/proc/self/ns/{name}')"
    return Probe(
        name=f"own_{name}_namespace",
        family=_F,
        code=f"check({link} != HOST['ns']['{name}'], 'blocked: own', 'the hosts')",
        expect=blocked("own"),
        control=control,
    )


PROBES: Final = (
    *[told(_F, name, act, "EACCES", "init_dumpable") for name, act in _INIT.items()],
    *[_masked(name) for name in _MASKED if os.path.exists(f"/proc/{name}")],
    *[
        told(_F, f"setting_{name}", f"os.open({path!r}, os.O_WRONLY | os.O_TRUNC)", "EROFS", "read_only_proc")
        for name, path in _SETTINGS.items()
        if os.path.exists(path)
    ],
    *[_namespace(name, control) for name, control in _NAMESPACES.items()],
    Probe(
        name="processes_are_own",
        family=_F,
        beside="print('here')\ntime.sleep(5)",
        code="seen = sorted(int(p) for p in os.listdir('/proc') if p.isdigit())\n"
        "check(seen == [1, 2], 'blocked: two', seen)",
        expect=blocked("two"),
        control="pid_ns",
    ),
    Probe(
        name="other_roots",
        family=_F,
        code="roots = []\nfor p in os.listdir('/proc'):\n if p.isdigit() and int(p) != os.getpid():\n"
        "  try: roots.append((p, os.listdir(f'/proc/{p}/root')))\n  except PermissionError: pass\n"
        "check(not roots, 'blocked: none', roots)",
        expect=blocked("none"),
        control="init_dumpable",
    ),
    Probe(
        name="command_line_names_no_host_path",
        family=_F,
        code="line = read('/proc/1/cmdline') + read('/proc/self/cmdline')\n"
        "check(HOST['repo'] not in line, 'blocked: none', line)",
        expect=blocked("none"),
        control="boot_names_path",
    ),
    Probe(
        name="environment_is_our_own",
        family=_F,
        code="names = {v.split('=')[0] for v in read('/proc/self/environ').split(chr(0)) if v} | set(os.environ)\n"
        "extra = names - set('ENCLAVE_SESSION_ID HOME LANG LC_CTYPE PATH TMPDIR USER'.split())\n"
        "check(not extra, 'blocked: none', sorted(extra))",
        expect=blocked("none"),
        control="environment",
    ),
    Probe(
        name="mounts_name_no_host_directory",
        family=_F,
        code="own = ('/usr', '/bin', '/sbin', '/lib', '/dev/', '/proc', '/tmp', '/work')\n"
        "points = [l.split()[4] for l in read('/proc/self/mountinfo').splitlines()]\n"
        "other = [p for p in points if p != '/' and not p.startswith(own)]\ncheck(not other, 'blocked: none', other)",
        expect=blocked("none"),
        control="host_root",
    ),
    Probe(
        name="cgroup_path_is_root",
        family=_F,
        code="paths = {l.split(':', 2)[2] for l in read('/proc/self/cgroup').splitlines() if 'memory' in l or "
        "l.startswith('0::')}\nown = {p for p in paths if 'enclave' in p}\ncheck(not own, 'blocked: hidden', own)",
        expect=blocked("hidden"),
        control="cgroup_ns",
    ),
    Probe(
        name="user_map_is_one_id",
        family=_F,
        code="inside, outside, count = map(int, read('/proc/self/uid_map').split())\n"
        "check((inside, count) == (1000, 1) and outside != 0, 'blocked: one', (inside, outside, count))",
        expect=blocked("one"),
        control="user_ns",
    ),
    Probe(
        name="sys_is_empty",
        family=_F,
        code="check(os.listdir('/sys') == [], 'blocked: empty', os.listdir('/sys'))",
        expect=blocked("empty"),
        control="host_root",
    ),
    Probe(
        name="hostname_is_our_own",
        family=_F,
        code="check(os.uname().nodename == 'sandbox', 'blocked: own', os.uname().nodename)",
        expect=blocked("own"),
        control="uts_ns",
    ),
    told(_F, "oom_score_lowered", "open('/proc/self/oom_score_adj', 'w', buffering=1).write('-1000\\n')", "EACCES",
         "fixed: it takes CAP_SYS_RESOURCE, which the root of this machine may lack itself"),
    told(_F, "init_status_channel", "open('/proc/1/fd/6', 'wb')", "EACCES", "init_dumpable+real_root"),
    told(_F, "pagemap_of_init", "open('/proc/1/pagemap', 'rb')", "EACCES", "init_dumpable"),
    told(_F, "user_map_again", "os.write(os.open('/proc/self/uid_map', os.O_WRONLY), b'0 0 1')", "EPERM",
         "fixed: the kernel takes a map once, and ours is written before any code runs"),
    Probe(
        name="pagemap_hides_frames",
        family=_F,
        code="import struct\nbuf = ctypes.create_string_buffer(8192)\nbuf[0] = b'x'\n"
        "with open('/proc/self/pagemap', 'rb') as f:\n f.seek(ctypes.addressof(buf) // 4096 * 8)\n"
        " frame = struct.unpack('Q', f.read(8))[0] & ((1 << 55) - 1)\ncheck(frame == 0, 'blocked: zero', frame)",
        expect=blocked("zero"),
        control="real_root+capabilities",
    ),
    Probe(
        name="own_memory_by_proc",
        family=_F,
        code="buf = ctypes.create_string_buffer(b'x')\nwith open('/proc/self/mem', 'r+b', buffering=0) as f:\n"
        " f.seek(ctypes.addressof(buf)); f.write(b'y')\nenclave.result('harmless: ' + buf.value.decode())",
        expect=harmless("y"),
        control="fixed: a program's own memory is its own",
    ),
    node(_F, "node_init_environ", "tell(() => fs.readFileSync('/proc/1/environ'))", blocked("EACCES"), "init_dumpable"),
    node(
        _F,
        "node_processes",
        "const seen = fs.readdirSync('/proc').filter((p) => /^\\d+$/.test(p));\n"
        "check(seen.length === 2, 'blocked: two', seen);",
        blocked("two"),
        "pid_ns",
    ),
    node(
        _F,
        "node_core_pattern",
        "tell(() => fs.openSync('/proc/sys/kernel/core_pattern', 'w'))",
        blocked("EROFS"),
        "read_only_proc",
    ),
)  # fmt: skip
