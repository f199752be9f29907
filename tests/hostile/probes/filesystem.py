"""The file system: the host's files are not there, and what is there cannot be changed."""

from pathlib import Path
from typing import Final

from tests.hostile.probe import Probe, blocked, contained, harmless
from tests.hostile.probes.shapes import node, told

_F: Final = "filesystem"
_READ: Final = "open(HOST['canary'][{0!r}]).read()"
_CANARY_CONTROLS: Final = {
    "root": "host_root",
    "home": "host_root",
    "opt": "host_root",
    "tmp": "host_root+host_tmp",
    "work": "host_root+host_work",
}
_REPOSITORY_CONTROL: Final = _CANARY_CONTROLS.get(Path(__file__).resolve().parts[1], "host_root")
_ABSENT: Final = {
    "host_shadow": "open('/etc/shadow')",
    "host_ssh_keys": "os.listdir('/root/.ssh')",
    "host_run": "os.listdir('/run')",
    "host_boot": "os.listdir('/boot')",
    "host_var_log": "os.listdir('/var/log')",
    "host_cgroups": "os.listdir('/sys/fs/cgroup')",
    "dev_kmsg": "os.stat('/dev/kmsg')",
    "dev_fuse": "os.stat('/dev/fuse')",
    "dev_tty": "os.stat('/dev/tty')",
    "dev_ptmx": "os.stat('/dev/ptmx')",
    "dev_disk": "os.listdir('/dev/disk') if os.path.exists('/dev/disk') else os.stat('/dev/vda')",
    "symlink_to_host": "(os.symlink(HOST['canary']['opt'], 'l'), open('l').read())",
    "dotdot_to_host": "open('/work/' + '../' * 64 + HOST['canary']['opt']).read()",
}
_ABSENT_ALWAYS: Final = {
    "dev_mem": "open('/dev/mem')",
    "dev_kvm": "open('/dev/kvm')",
    "docker_socket": "os.stat('/var/run/docker.sock')",
}
_MADE_IN_ROOT: Final = {
    "write_root": "open('/x', 'w')",
    "write_etc_passwd": "open('/etc/passwd', 'w')",
    "write_resolv_conf": "open('/etc/resolv.conf', 'w')",
    "mkdir_in_opt": "os.mkdir('/opt/x')",
    "mkdir_in_sys": "os.mkdir('/sys/x')",
    "unlink_hosts": "os.unlink('/etc/hosts')",
    "rename_root": "os.rename('/etc', '/etc2')",
    "symlink_in_dev": "os.symlink('/tmp/x', '/dev/x')",
    "mknod_in_root": "os.mkfifo('/etc/x')",
}
_READ_ONLY_RUNTIME: Final = {
    "write_usr": "open('/usr/bin/x', 'w')",
    "truncate_interpreter": "open('/usr/bin/env', 'r+b', opener=lambda p, f: os.open(p, f | os.O_TRUNC))",
    "unlink_program": "os.unlink('/usr/bin/env')",
    "rename_program": "os.rename('/usr/bin/env', '/usr/bin/env2')",
    "link_program": "os.link('/usr/bin/env', '/usr/bin/env2')",
    "symlink_program": "os.symlink('/work/x', '/usr/bin/env2')",
    "chmod_setuid": "os.chmod('/usr/bin/env', 0o4755)",
    "chown_program": "os.chown('/usr/bin/env', 1000, 1000)",
    "touch_program": "os.utime('/usr/bin/env', (1, 1))",
    "xattr_program": "os.setxattr('/usr/bin/env', 'user.x', b'y')",
    "mkdir_in_lib": "os.mkdir('/usr/lib/x')",
}
_HERE: Final = "the kernel's own rule; there is nothing of ours to remove"

PROBES: Final = (
    *[told(_F, f"canary_{k}", _READ.format(k), "ENOENT", c) for k, c in _CANARY_CONTROLS.items()],
    *[told(_F, name, act, "ENOENT", "host_root") for name, act in _ABSENT.items()],
    *[
        told(_F, name, act, "ENOENT", "fixed: this host may have none, so that nothing tells the wall's absence")
        for name, act in _ABSENT_ALWAYS.items()
    ],
    *[told(_F, name, act, "EROFS", "writable_root+real_root+landlock") for name, act in _MADE_IN_ROOT.items()],
    told(_F, "chmod_root", "os.chmod('/', 0o777)", "EROFS", "writable_root"),
    *[told(_F, name, act, "EROFS", "writable_runtime+read_only_start") for name, act in _READ_ONLY_RUNTIME.items()],
    told(_F, "link_out_of_runtime", "os.link('/usr/bin/env', '/work/env')", "EXDEV", f"fixed: {_HERE}"),
    told(_F, "rename_into_runtime", "os.rename('/work/main.py', '/usr/bin/x')", "EXDEV", f"fixed: {_HERE}"),
    told(_F, "host_repository", "os.stat(HOST['repo'])", "ENOENT", _REPOSITORY_CONTROL),
    told(_F, "touch_shared_device", "os.utime('/dev/null')", "EROFS", "writable_devices+read_only_start"),
    told(_F, "touch_device_held_open", "os.utime(0)", "EROFS", "writable_devices+read_only_start"),
    told(_F, "chmod_device_held_open", "os.fchmod(0, 0o666)", "EROFS", "writable_devices+read_only_start"),
    told(_F, "mknod_memory_device", "os.mknod('m', 0o20666, os.makedev(1, 1))", "EACCES",
         "real_root+capabilities+landlock"),
    told(_F, "mknod_disk_device", "os.mknod('d', 0o60666, os.makedev(254, 0))", "EACCES",
         "real_root+capabilities+landlock"),
    told(_F, "mknod_whiteout", "os.mknod('w', 0o20666, 0)", "EACCES", "landlock"),
    Probe(
        name="dev_has_five_devices",
        family=_F,
        code="check(sorted(os.listdir('/dev')) == "
        "'fd full null random shm stderr stdin stdout urandom zero'.split(), 'blocked: five', os.listdir('/dev'))",
        expect=blocked("five"),
        control="host_root",
    ),
    Probe(
        name="root_has_only_the_runtime",
        family=_F,
        code="extra = set(os.listdir('/')) - set('bin dev etc lib lib32 lib64 libx32 opt proc sbin sys tmp usr var "
        "work'.split())\ncheck(not extra, 'blocked: nothing else', sorted(extra))",
        expect=blocked("nothing else"),
        control="host_root",
    ),
    Probe(
        name="etc_is_our_own",
        family=_F,
        code="names = [line.split(':')[0] for line in read('/etc/passwd').splitlines()]\n"
        "check(names == ['root', 'sandbox', 'nobody'], 'blocked: own', names)",
        expect=blocked("own"),
        control="host_root",
    ),
    Probe(
        name="machine_id_is_not_the_hosts",
        family=_F,
        code="check(read('/etc/machine-id') == '', 'blocked: empty', 'the host can be told apart')",
        expect=blocked("empty"),
        control="host_root",
    ),
    Probe(
        name="every_mount_is_nosuid",
        family=_F,
        code="bare = [l for l in read('/proc/self/mountinfo').splitlines() if 'nosuid' not in l.split()[5]]\n"
        "check(not bare, 'blocked: nosuid', bare)",
        expect=blocked("nosuid"),
        control="writable_runtime+read_only_start",
    ),
    Probe(
        name="devices_only_in_dev",
        family=_F,
        code="bare = [l.split()[4] for l in read('/proc/self/mountinfo').splitlines() if 'nodev' not in l.split()[5]]\n"
        "bare = [p for p in bare if not p.startswith(('/dev/', '/proc/'))]\ncheck(not bare, 'blocked: nodev', bare)",
        expect=blocked("nodev"),
        control="writable_runtime+read_only_start",
    ),
    Probe(
        name="work_is_bounded",
        family=_F,
        code="try:\n with open('/work/f', 'wb') as f:\n  for _ in range(24): f.write(b'x' * (1 << 20))\n"
        "except OSError as e: enclave.result('contained: ' + errno.errorcode[e.errno])\n"
        "else: enclave.result('leaked: 24 MiB')",
        expect=contained("ENOSPC"),
        control="disk_bound",
        limits={"disk_mib": 8},
    ),
    Probe(
        name="fallocate_is_bounded",
        family=_F,
        code="fd = os.open('/tmp/f', os.O_CREAT | os.O_RDWR)\n"
        "try: os.posix_fallocate(fd, 0, 24 << 20)\nexcept OSError as e: enclave.result('contained: ' + "
        "errno.errorcode[e.errno])\nelse: enclave.result('leaked: 24 MiB')",
        expect=contained("ENOSPC"),
        control="disk_bound",
        limits={"disk_mib": 8},
    ),
    Probe(
        name="work_replaced_by_a_link",
        family=_F,
        code="os.unlink('/work/main.py')\nos.symlink('/etc/passwd', '/work/main.py')\n"
        "os.chmod('/work', 0)\nenclave.result('harmless: replaced')",
        expect=harmless("replaced"),
        control="fixed: nothing outside ever reads a sandbox's files; there is no wall to remove",
    ),
    node(_F, "node_reads_canary", "tell(() => fs.readFileSync(HOST.canary.opt))", blocked("ENOENT"), "host_root"),
    node(_F, "node_reads_shadow", "tell(() => fs.readFileSync('/etc/shadow'))", blocked("ENOENT"), "host_root"),
    node(
        _F,
        "node_writes_usr",
        "tell(() => fs.writeFileSync('/usr/bin/x', ''))",
        blocked("EROFS"),
        "writable_runtime+read_only_start",
    ),
    node(_F, "node_writes_guest", "tell(() => fs.writeFileSync('/opt/enclave/node.js', ''))", blocked("EROFS"),
         "writable_root"),
    node(
        _F,
        "node_writes_by_worker",
        "const { Worker } = require('worker_threads');\n"
        "const w = new Worker(\"require('fs').writeFileSync('/etc/x', '')\", { eval: true });\n"
        "w.on('error', (e) => enclave.result('blocked: ' + e.code));\n"
        "w.on('exit', (c) => c === 0 && enclave.result('leaked: written'));",
        blocked("EROFS"),
        "writable_root",
    ),
)  # fmt: skip
