"""Residue: nothing of one sandbox is in the next, and nothing passes between two that live."""

from typing import Final

from tests.hostile.probe import Probe, blocked
from tests.hostile.probes.shapes import node, number

_F: Final = "residue"
_ONCE: Final = "fixed: a sandbox is one process, used once; there is no second program in it to find anything"
_SCAN: Final = """
def found(head, liat):
    count = 0
    with open('/proc/self/mem', 'rb') as memory, open('/proc/self/maps') as maps:
        for line in maps:
            span, access, *rest = line.split()
            if 'w' not in access or rest[-1].startswith('[v'): continue
            first, last = (int(end, 16) for end in span.split('-'))
            memory.seek(first)
            held, at = memory.read(last - first), -1
            while (at := held.find(head, at + 1)) >= 0:
                count += held[at + len(head) : at + len(head) + len(liat)][::-1] == liat
    return count
"""
_IPC: Final = {
    "shared_memory": ("_libc.shmget(HOST['keys'][1], 4096, 0o1666)", "_libc.shmget(HOST['keys'][1], 0, 0)"),
    "semaphore": ("_libc.semget(HOST['keys'][2], 1, 0o1666)", "_libc.semget(HOST['keys'][2], 0, 0)"),
    "message_queue": ("_libc.msgget(HOST['keys'][3], 0o1666)", "_libc.msgget(HOST['keys'][3], 0)"),
}
_FILES: Final = {
    "work": "/work/residue",
    "tmp": "/tmp/residue",
    "dev_shm": "/dev/shm/residue",
    "var_tmp": "/var/tmp/residue",
}
_STATE: Final = {
    "environment": ("os.environ['RESIDUE'] = '1'; os.putenv('RESIDUE', '1')", "os.environ.get('RESIDUE') is None"),
    "module": ("import json; json.residue = 1", "not hasattr(__import__('json'), 'residue')"),
    "builtins": ("import builtins; builtins.residue = 1", "'residue' not in vars(__import__('builtins'))"),
    "umask": ("os.umask(0)", "os.umask(0) == 0o022"),
    "signals": (
        "import signal; signal.signal(10, signal.SIG_IGN)",
        "__import__('signal').getsignal(10) == __import__('signal').SIG_DFL",
    ),
    "working_directory": ("os.chdir('/tmp')", "os.getcwd() == '/work'"),
    "nice": ("os.nice(5)", "os.nice(0) == 0"),
    "resource_limit": (
        "import resource; resource.setrlimit(7, (64, 64))",
        "__import__('resource').getrlimit(7)[1] > 64",
    ),
    "path": ("sys.path.append('/residue')", "'/residue' not in sys.path"),
}


def _state(name: str, leave: str, clean: str) -> Probe:
    return Probe(
        name=f"residue_of_{name}",
        family=_F,
        before=leave,
        code=f"check({clean}, 'blocked: none')",
        expect=blocked("none"),
        control=_ONCE,
    )


def _file(name: str, path: str) -> Probe:
    return Probe(
        name=f"file_in_{name}",
        family=_F,
        before=f"open({path!r}, 'w').write('x')",
        code=f"check(not os.path.exists({path!r}), 'blocked: none', 'found')",
        expect=blocked("none"),
        control="shared_tmp",
    )


def _ipc(name: str, make: str, look: str) -> Probe:
    return Probe(
        name=f"system_v_{name}",
        family=_F,
        before=f"enclave.result({make})",
        code=f"got, why = {look}, ctypes.get_errno()\n"
        "enclave.result(f'leaked: {got}' if got >= 0 else 'blocked: ' + errno.errorcode[why])",
        expect=blocked("ENOENT"),
        control="ipc_ns",
    )


_DAEMON: Final = (
    "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  for fd in (0, 1, 2, 5, 6): os.close(fd)\n"
    "  {0}\n  time.sleep(3)\n os._exit(0)\nos.wait()\ntime.sleep(.1)"
)

PROBES: Final = (
    *[_file(name, path) for name, path in _FILES.items()],
    *[_ipc(name, *pair) for name, pair in _IPC.items()],
    *[_state(name, *pair) for name, pair in _STATE.items()],
    Probe(
        name="system_v_of_the_host",
        family=_F,
        code="got, why = _libc.shmget(HOST['keys'][0], 0, 0), ctypes.get_errno()\n"
        "enclave.result(f'leaked: {got}' if got >= 0 else 'blocked: ' + errno.errorcode[why])",
        expect=blocked("ENOENT"),
        control="ipc_ns",
    ),
    Probe(
        name="posix_message_queue",
        family=_F,
        code=f"enclave.result(named(call({number(240, 180)}, b'residue', 0o102, 0o666, 0)))",
        expect=blocked("EPERM"),
        control="seccomp",
    ),
    Probe(
        name="background_process",
        family=_F,
        before=_DAEMON.format("_libc.prctl(15, b'residue', 0, 0, 0)"),
        code="names = []\nfor p in os.listdir('/proc'):\n if p.isdigit():\n"
        "  try: names.append(read(f'/proc/{p}/comm').strip())\n  except OSError: pass\n"
        "check('residue' not in names, 'blocked: none', names)",
        expect=blocked("none"),
        control="pid_ns+cgroup_join",
    ),
    Probe(
        name="background_listener",
        family=_F,
        before=_DAEMON.format("import socket; s = socket.create_server(('127.0.0.1', 45124))"),
        code="import socket\ntell(lambda: socket.create_connection(('127.0.0.1', 45124), timeout=2))",
        expect=blocked("ECONNREFUSED"),
        control="pid_ns+net_ns+cgroup_join",
    ),
    Probe(
        name="random_state",
        family=_F,
        before="import random\nenclave.result(str(random.random()))",
        code="import random\ncheck(str(random.random()) != BEFORE, 'blocked: fresh', 'the same draw')",
        expect=blocked("fresh"),
        control="reseeded",
    ),
    Probe(
        name="uuid_and_urandom",
        family=_F,
        before="import uuid, tempfile\nenclave.result(str(uuid.uuid4()) + next(tempfile._get_candidate_names()))",
        code="import uuid, tempfile\nnow = str(uuid.uuid4()) + next(tempfile._get_candidate_names())\n"
        "check(now[36:] != BEFORE[36:] and now[:36] != BEFORE[:36], 'blocked: fresh', now)",
        expect=blocked("fresh"),
        control="fixed: both ask the kernel, every time",
    ),
    Probe(
        name="program_in_memory",
        family=_F,
        before="secret = 'kept-by-an-earlier-program-0123456789abcdef'\nenclave.result('done')",
        code=f"{_SCAN}\nseen = found(b'kept-by-an-e', b'rgorp-reilra')\n"
        "check(seen == 0, 'blocked: none', seen)",
        expect=blocked("none"),
        control="payload_through_launcher+mold",
    ),
    Probe(
        name="session_ids_in_memory",
        family=_F,
        beside="print('here')\ntime.sleep(5)",
        code="import re\nmine, seen = os.environ['ENCLAVE_SESSION_ID'].encode(), set()\n"
        "with open('/proc/self/mem', 'rb') as memory, open('/proc/self/maps') as maps:\n for line in maps:\n"
        "  span, access, *rest = line.split()\n  if 'w' not in access or rest[-1].startswith('[v'): continue\n"
        "  first, last = (int(end, 16) for end in span.split('-'))\n  memory.seek(first)\n"
        "  seen.update(re.findall(b'ses_host[i]le[0-9]+', memory.read(last - first)))\n"
        "others = sorted(one for one in seen if not mine.startswith(one) and not one.startswith(mine))\n"
        "check(not others, 'blocked: none', others)",
        expect=blocked("none"),
        control="payload_through_launcher+mold",
    ),
    Probe(
        name="host_user_id_is_fresh",
        family=_F,
        before="enclave.result(read('/proc/self/uid_map').split()[1])",
        code="now = read('/proc/self/uid_map').split()[1]\ncheck(now != BEFORE, 'blocked: fresh', now)",
        expect=blocked("fresh"),
        control="one_user_id",
    ),
    Probe(
        name="host_user_id_of_neighbour",
        family=_F,
        beside="print('here')\ntime.sleep(5)",
        code="seen = []\nfor pid in range(1, 400):\n try: os.kill(pid, 0); seen.append(pid)\n except OSError: pass\n"
        "check(seen == [1, 2], 'blocked: none', seen)",
        expect=blocked("none"),
        control="pid_ns+one_user_id",
    ),
    Probe(
        name="mounts_do_not_grow",
        family=_F,
        before="enclave.result(str(len(read('/proc/self/mountinfo').splitlines())))",
        code="now = len(read('/proc/self/mountinfo').splitlines())\ncheck(str(now) == BEFORE, 'blocked: same', now)",
        expect=blocked("same"),
        control="mount_ns",
    ),
    Probe(
        name="neighbour_seen_by_inotify",
        family=_F,
        beside="print('here')\nend = time.time() + 5\n"
        "while time.time() < end: open('/usr/bin/env', 'rb').close(); time.sleep(0.01)",
        code="fd = _libc.inotify_init1(0o4000)\ngot = _libc.inotify_add_watch(fd, b'/usr/bin/env', 0x20)\n"
        "time.sleep(0.3)\n"
        "try: seen = os.read(fd, 4096)\nexcept OSError: seen = b''\ncheck(not seen, 'blocked: none', 'opens seen')",
        expect=blocked("none"),
        control="seccomp",
    ),
    Probe(
        name="neighbour_seen_by_lock",
        family=_F,
        beside="import fcntl\nf = open('/dev/null')\nfcntl.flock(f, fcntl.LOCK_EX)\ng = open('/usr/bin/env')\n"
        "fcntl.flock(g, fcntl.LOCK_EX)\nprint('here')\ntime.sleep(5)",
        code="import fcntl\nseen = []\nfor path in ('/dev/null', '/usr/bin/env'):\n"
        " try: fcntl.flock(open(path), fcntl.LOCK_EX | fcntl.LOCK_NB)\n except OSError: seen.append(path)\n"
        "check(not seen, 'blocked: none', seen)",
        expect=blocked("none"),
        control="fixed: there is no wall there to remove",
        known="locks belong to the files of the runtime that all share; two sessions that want to can signal",
    ),
    Probe(
        name="keyring",
        family=_F,
        code=f"enclave.result(named(call({number(248, 217)}, b'user', b'residue', b'x', 1, -4)))",
        expect=blocked("EPERM"),
        control="seccomp",
    ),
    node(
        _F,
        "node_file_before_python",
        "check(fs.readdirSync('/work').join() === 'main.js' && fs.readdirSync('/tmp').filter((n) => n !== '.work')"
        ".length === 0, 'blocked: none', fs.readdirSync('/tmp'));",
        blocked("none"),
        "shared_tmp",
    ),
)  # fmt: skip
