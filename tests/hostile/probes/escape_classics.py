"""Ways out that worked somewhere once, by their names."""

from typing import Final

from tests.hostile.probe import Probe, blocked, contained, harmless
from tests.hostile.probes.shapes import exploit, node, number, raw, told

_F: Final = "escape_classics"
_PATCHED: Final = "fixed: a bug of old kernels; the mend is the kernel's"
_REOPEN: Final = "real_root"

PROBES: Final = (
    told(_F, "cve_2019_5736_own_exe", "os.open('/proc/self/exe', os.O_WRONLY)", "EACCES", "real_root"),
    Probe(
        name="cve_2019_5736_own_exe_mount",
        family=_F,
        code="flags = os.statvfs('/proc/self/exe').f_flag\n"
        "check(flags & os.ST_RDONLY and flags & os.ST_NOSUID, 'blocked: read-only', f'on a mount with {flags}')",
        expect=blocked("read-only"),
        control="read_only_start",
    ),
    told(_F, "cve_2019_5736_init_exe", "os.open('/proc/1/exe', os.O_RDONLY)", "EACCES", "init_dumpable"),
    Probe(
        name="cve_2024_21626_leaked_directory",
        family=_F,
        code="import stat\ndirs = []\nfor fd in range(3, 4096):\n try:\n"
        "  if stat.S_ISDIR(os.fstat(fd).st_mode): dirs.append(fd)\n except OSError: pass\n"
        "check(not dirs, 'blocked: none', dirs)",
        expect=blocked("none"),
        control="descriptors",
    ),
    Probe(
        name="leaked_descriptors",
        family=_F,
        code="seen = []\nfor fd in range(4096):\n try: os.fstat(fd); seen.append(fd)\n except OSError: pass\n"
        "check(seen == [0, 1, 2, 5, 6], 'blocked: five', seen)",
        expect=blocked("five"),
        control="descriptors",
    ),
    told(_F, "cve_2022_0492_release_agent", "open('/sys/fs/cgroup/memory/release_agent', 'w')", "ENOENT", "host_root"),
    told(_F, "binfmt_misc", "open('/proc/sys/fs/binfmt_misc/register', 'w')", "ENOENT",
         "fixed: this host may have none mounted, so that nothing tells the wall's absence"),
    raw(_F, "cve_2026_31431_alg", f"{number(41, 198)}, 38, 15, 0", "EPERM", "seccomp"),
    raw(_F, "cve_2026_43284_xfrm", f"{number(41, 198)}, 16, 3, 6", "EPERM", "seccomp"),
    raw(_F, "cve_2026_43500_rxrpc", f"{number(41, 198)}, 33, 15, 0", "EPERM", "seccomp"),
    raw(_F, "cve_2024_1086_nf_tables", f"{number(41, 198)}, 16, 3, 12", "EPERM", "seccomp"),
    raw(_F, "cve_2023_0386_overlay_in_user_namespace", f"{number(272, 97)}, 0x10020000", "EPERM", "seccomp"),
    raw(_F, "cve_2022_0185_fsopen", f"{number(430, 430)}, b'ext4', 0", "EPERM", "seccomp+real_root+capabilities"),
    exploit(_F, "shocker", f"{number(304, 265)}, -1, ctypes.create_string_buffer(64), 0"),
    raw(_F, "cve_2017_5226_tiocsti", f"{number(16, 29)}, 1, 0x5412, b'x'", "EPERM", "seccomp"),
    raw(_F, "cve_2016_0728_keyring", f"{number(250, 219)}, 1, 0, 0, 0, 0", "EPERM", "seccomp"),
    exploit(_F, "userfaultfd_race", f"{number(323, 282)}, 1"),
    raw(_F, "pidfd_getfd_of_init", f"{number(438, 438)}, os.pidfd_open(1), 6, 0", "EPERM", "seccomp+init_dumpable"),
    Probe(
        name="cve_2016_5195_dirty_cow",
        family=_F,
        code="import mmap, threading\nfd = os.open('/etc/hosts', 0)\nsize = os.fstat(fd).st_size\n"
        "m = mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ)\nwas = bytes(m)\n"
        "def drop():\n for _ in range(20000): m.madvise(mmap.MADV_DONTNEED)\n"
        "t = threading.Thread(target=drop)\nt.start()\n"
        "at = next(int(l.split('-')[0], 16) for l in open('/proc/self/maps') if '/etc/hosts' in l)\n"
        "with open('/proc/self/mem', 'r+b', buffering=0) as mem:\n"
        " for _ in range(2000): mem.seek(at); mem.write(b'X')\nt.join()\n"
        "check(open('/etc/hosts', 'rb').read() == was, 'blocked: unchanged', 'the file was written')",
        expect=blocked("unchanged"),
        control=_PATCHED,
    ),
    Probe(
        name="cve_2022_0847_dirty_pipe",
        family=_F,
        code="was = open('/etc/hosts', 'rb').read()\nr, w = os.pipe()\nos.write(w, b'x' * 65536)\nos.read(r, 65536)\n"
        "fd = os.open('/etc/hosts', 0)\nos.splice(fd, w, 1, offset_src=0)\nos.write(w, b'OVERWRITTEN')\n"
        "check(open('/etc/hosts', 'rb').read() == was, 'blocked: unchanged', 'the file was written')",
        expect=blocked("unchanged"),
        control=_PATCHED,
    ),
    Probe(
        name="reopen_stdout_for_reading",
        family=_F,
        code="fd = os.open('/proc/self/fd/1', os.O_RDWR)\nos.write(fd, b'x')\n"
        "enclave.result('harmless: its own output')",
        expect=harmless("its own output"),
        control="fixed: /dev/stdout is to work; what a program takes from its own output only it misses",
    ),
    Probe(
        name="map_files",
        family=_F,
        code="span = read('/proc/self/maps').split()[0]\n"
        "first, last = (f'{int(e, 16):x}' for e in span.split('-'))\n"
        "tell(lambda: os.open(f'/proc/self/map_files/{first}-{last}', os.O_RDONLY))",
        expect=blocked("EPERM"),
        control="real_root+capabilities",
    ),
    told(_F, "reopen_result_for_reading", "os.open('/proc/self/fd/5', os.O_RDONLY)", "EACCES", _REOPEN),
    told(_F, "reopen_status_for_reading", "os.open('/proc/self/fd/6', os.O_RDONLY)", "EACCES", _REOPEN),
    Probe(
        name="launcher_state_holds_no_session",
        family=_F,
        beside="print('here')\ntime.sleep(5)",
        code="frame, seen = sys._getframe(), []\nwhile frame:\n for held in list(frame.f_locals.values()):\n"
        "  for session in getattr(held, '_by_session', ()): seen.append(session)\n frame = frame.f_back\n"
        "seen = [s for s in seen if 'ses_' in str(s)]\ncheck(not seen, 'blocked: none', seen)",
        expect=blocked("none"),
        control="fixed: that the launcher is given numbers only is the control plane's doing",
    ),
    Probe(
        name="no_control_plane_package",
        family=_F,
        code="found = [m for m in ('enclave.contracts', 'enclave.server', 'enclave.store', 'pydantic', 'starlette') "
        "if m in sys.modules]\nfor name in ('pydantic', 'starlette', 'uvicorn', 'jwt'):\n"
        " try: __import__(name); found.append(name)\n except ImportError: pass\n"
        "check(not found, 'blocked: none', found)",
        expect=blocked("none"),
        control="fixed: the launcher is started isolated, without any site directory; putting one in shows in nothing",
    ),
    Probe(
        name="chroot_then_dotdot",
        family=_F,
        code=f"os.mkdir('jail')\nenclave.result(named(call({number(161, 51)}, b'jail')))",
        expect=blocked("EPERM"),
        control="seccomp+capabilities",
    ),
    Probe(
        name="coredump_to_a_pipe",
        family=_F,
        code="tell(lambda: open('/proc/sys/kernel/core_pattern', 'w').write('|/work/x'))",
        expect=blocked("EROFS"),
        control="read_only_proc",
    ),
    Probe(
        name="guest_code_rewritten",
        family=_F,
        code="import enclave as e\nfor module in list(sys.modules.values()):\n"
        " if getattr(module, '__name__', '').startswith('enclave.guest'):\n"
        "  module._exit_code = lambda c: 0\n  module._quietly = lambda step: None\n"
        "enclave.result('harmless: rewritten')",
        expect=harmless("rewritten"),
        control="fixed: the guest is the program's own process; nothing outside believes it",
    ),
    Probe(
        name="seccomp_by_child_exec",
        family=_F,
        code="import subprocess\nout = subprocess.run(['unshare', '-Ur', 'true'], capture_output=True, text=True)\n"
        "check(out.returncode == 1 and 'not permitted' in out.stderr, 'blocked: EPERM', out)",
        expect=blocked("EPERM"),
        control="seccomp",
    ),
    Probe(
        name="mount_by_program",
        family=_F,
        code="import subprocess\nout = subprocess.run(['mount', '-t', 'tmpfs', 'x', '/work'], capture_output=True, "
        "text=True)\ncheck(out.returncode in (1, 32) and os.listdir('/work'), 'blocked: refused', out)",
        expect=blocked("refused"),
        control="seccomp+landlock+real_root+capabilities",
    ),
    Probe(
        name="remount_writable",
        family=_F,
        code=f"enclave.result(named(call({number(165, 40)}, b'none', b'/', 0, 4096 | 32, 0)))",
        expect=blocked("EPERM"),
        control="seccomp+landlock+real_root+capabilities",
    ),
    Probe(
        name="unmask_by_umount",
        family=_F,
        code=f"enclave.result(named(call({number(166, 39)}, b'/proc/kcore', 2)))",
        expect=blocked("EPERM"),
        control="seccomp+real_root+capabilities",
    ),
    Probe(
        name="fork_inside_exec_race",
        family=_F,
        code="for _ in range(8):\n if os.fork() == 0: os.execv('/bin/true', ['true'])\n"
        "while True:\n try: os.wait()\n except ChildProcessError: break\nenclave.result('contained: all waited for')",
        expect=contained("all waited for"),
        control="fixed: ordinary programs do this",
    ),
    node(
        _F,
        "node_binding",
        "tell(() => { process.binding('fs'); process.binding('spawn_sync'); return fs.readFileSync('/etc/shadow'); })",
        blocked("ENOENT"),
        "host_root",
    ),
    node(
        _F,
        "node_own_exe",
        "tell(() => fs.openSync('/proc/self/exe', 'w'))",
        blocked("EROFS"),
        "writable_runtime+read_only_start",
    ),
    node(
        _F,
        "node_prototype_pollution_of_guest",
        "Object.prototype.code = 'x'; Array.prototype.push = null; enclave.result('harmless: polluted');",
        harmless("polluted"),
        "fixed: the guest is the program's own process; nothing outside believes it",
    ),
)  # fmt: skip
