"""Programs that change what is looked at while it is looked at, and that misuse what was handed over to them."""

import pytest

from tests.egress.conftest import Sandboxes
from tests.egress.site import OTHER, SERVER

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox, pytest.mark.root, pytest.mark.usefixtures("nothing_reached")]

RACE = f"""
import ctypes, os, socket, struct, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def sockaddr(host, port): return struct.pack('=H', 2) + struct.pack('!H', port) + socket.inet_aton(host) + bytes(8)
good, bad = sockaddr('{SERVER}', 7), sockaddr('{OTHER}', 7)
end = time.monotonic() + 3
def during(*acts):
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


async def test_an_address_that_changes_while_it_is_read(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        RACE + "place = ctypes.create_string_buffer(good, 16)\nreached = set()\n"
        "def flip():\n    while time.monotonic() < end:\n"
        "        ctypes.memmove(place, bad, 16); ctypes.memmove(place, good, 16)\n"
        "def connect():\n    while time.monotonic() < end:\n"
        "        s = socket.socket()\n"
        "        if libc.connect(s.fileno(), place, 16) == 0: reached.add(s.getpeername())\n"
        "        s.close()\n"
        "during(flip, connect, connect)\nprint(reached)",
        [SERVER],
        cpus=2,
    )

    assert told.printed == f"{{('{SERVER}', 7)}}\n"
    assert {one.verdict for one in told.egress} == {"allowed", "denied", "closed"}


async def test_a_descriptor_that_is_exchanged_while_its_call_waits(sandboxes: Sandboxes) -> None:
    """A connect of a local socket must not become one of a socket that was handed over, to an address of any kind."""
    told = await sandboxes.run(
        RACE
        + "os.chdir('/tmp')\nlistening = socket.socket(socket.AF_UNIX); listening.bind('l'); listening.listen(1000)\n"
        f"held = socket.create_connection(('{SERVER}', 7))\n"
        + "local = struct.pack('=H', 1) + b'l' + bytes(107)\nnobody = bytes(16)\n"
        "place = ctypes.create_string_buffer(local, 110)\nfd = os.dup(held.fileno())\nodd = set()\n"
        "def flip():\n    while time.monotonic() < end:\n"
        "        s = socket.socket(socket.AF_UNIX); os.dup2(s.fileno(), fd); ctypes.memmove(place, local, 110)\n"
        "        os.dup2(held.fileno(), fd); ctypes.memmove(place, nobody, 16)\n"
        "        ctypes.memmove(place, bad, 16); s.close()\n"
        "def connect():\n    while time.monotonic() < end:\n"
        "        if libc.connect(fd, place, 110) == 0:\n"
        "            try: odd.add(held.getpeername())\n            except OSError as error: odd.add(error.errno)\n"
        "during(flip, connect, connect)\nprint(odd, held.getpeername())",
        [SERVER],
        cpus=2,
    )

    assert told.printed in (f"{{('{SERVER}', 7)}} ('{SERVER}', 7)\n", f"set() ('{SERVER}', 7)\n")


HANDED = f"""
import errno, os, socket, struct, sys
s = socket.create_connection(('{SERVER}', 7))
def attempt(act):
    try: print(act())
    except OSError as error: print(errno.errorcode[error.errno])
"""


async def test_what_was_handed_over_is_good_for_that_connection_only(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        HANDED + "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def raw(*arguments):\n"
        "    return 0 if libc.connect(s.fileno(), *arguments) == 0 else errno.errorcode[ctypes.get_errno()]\n"
        "print(raw(bytes(16), 16))\n"
        f"attempt(lambda: s.connect(('{OTHER}', 7)))\nattempt(lambda: s.connect(('{SERVER}', 80)))\n"
        "attempt(lambda: s.listen())\nattempt(lambda: s.bind(('0.0.0.0', 4000)))\n"
        "attempt(lambda: s.setsockopt(1, 27, 0))\nattempt(lambda: s.setsockopt(1, 44, 0))\n"
        "attempt(lambda: s.setsockopt(1, 26, bytes(16)))\nattempt(lambda: s.setsockopt(6, 31, b'tls'))\n"
        "attempt(lambda: s.setsockopt(6, 19, 1))\nattempt(lambda: s.setsockopt(1, 36, 1))\n"
        f"attempt(lambda: s.sendto(b'x', 0x20000000, ('{OTHER}', 7)))\n"
        "s.sendall(b'still'); print(s.recv(5))",
        [SERVER],
    )

    assert told.printed.splitlines() == [
        *["EISCONN"] * 3, "EINVAL", "EINVAL", *["EPERM"] * 7, "b'still'"
    ]  # fmt: skip


async def test_a_socket_whose_connect_failed_can_be_nothing_else(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        HANDED + "import select\nf = socket.socket(); f.setblocking(False)\n"
        f"attempt(lambda: f.connect(('{SERVER}', 9)))\nselect.select([], [f], [], 5)\n"
        "print(errno.errorcode[f.getsockopt(1, 4)])\n"
        "attempt(lambda: f.bind(('0.0.0.0', 4000)))\n"
        f"attempt(lambda: f.connect(('{OTHER}', 7)))\nattempt(lambda: f.connect(('{SERVER}', 7)))\n",
        [SERVER],
    )

    assert told.printed.splitlines() == ["EINPROGRESS", "ECONNREFUSED", "EINVAL", "EACCES", "EINPROGRESS"]


async def test_a_host_is_not_told_of_through_what_was_handed_over(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        HANDED + "import fcntl\n"
        "attempt(lambda: fcntl.ioctl(s, 0x8912, bytes(16)))\nattempt(lambda: fcntl.ioctl(s, 0x8915, bytes(40)))\n",
        [SERVER],
    )

    assert told.printed.splitlines() == ["EPERM", "EPERM"]


async def test_a_door_that_is_knocked_at_from_within_leads_nowhere(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        "import socket, urllib.request\n"
        "knocking = [socket.create_connection(('127.0.0.1', 80)) for _ in range(300)]\n"
        "print({s.recv(1) for s in knocking})\n"
        "print(urllib.request.urlopen('http://api.example.test/').status)",
        ["api.example.test"],
    )

    assert told.printed.splitlines() == ["{b''}", "200"]


async def test_calls_that_never_end_keep_no_other_session(sandboxes: Sandboxes) -> None:
    """Threads that ask without end, and die with their question unanswered."""
    told = await sandboxes.run(
        "import os, socket, threading\n"
        "def ask():\n    while True:\n"
        "        try: socket.create_connection(('198.51.100.1', 80))\n        except OSError: pass\n"
        "for _ in range(30): threading.Thread(target=ask, daemon=True).start()\n"
        "import time; time.sleep(1); os._exit(0)",
        cpus=2,
    )
    after = await sandboxes.run(
        f"import socket\nprint(socket.create_connection(('{SERVER}', 7)) is not None)", [SERVER]
    )

    assert told.end.code == 0
    assert after.printed == "True\n"


async def test_a_connect_that_is_made_to_block_keeps_nobody(sandboxes: Sandboxes) -> None:
    """The flag that keeps a connect from waiting is taken off while the broker makes it: nobody accepts there."""
    told = await sandboxes.run(
        RACE + "import fcntl\nos.chdir('/tmp')\n"
        "listening = socket.socket(socket.AF_UNIX); listening.bind('l'); listening.listen(0)\n"
        "first = socket.socket(socket.AF_UNIX); first.connect('l')\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "def flip():\n    while time.monotonic() < end: fcntl.fcntl(s, fcntl.F_SETFL, 0)\n"
        "def connect():\n    while time.monotonic() < end: libc.connect(s.fileno(), b'\\1\\0l\\0', 4)\n"
        "threading.Thread(target=connect, daemon=True).start()\n"
        "flip()\n"
        "try: socket.socket().connect(('198.51.100.1', 80))\nexcept PermissionError: print('over', flush=True)\n"
        "os._exit(0)",
        [SERVER],
        cpus=2,
        wall_clock_seconds=10,
    )

    assert told.printed == "over\n"


async def test_a_door_that_a_socket_cannot_hear_keeps_nobody(sandboxes: Sandboxes) -> None:
    """It drops the door's answer (IP_MINTTL), and the flag that keeps its connect from waiting is taken off."""
    told = await sandboxes.run(
        RACE + "import fcntl\nwhere = socket.getaddrinfo('api.example.test', 80)[0][4]\n"
        "to = ctypes.create_string_buffer(sockaddr(where[0], 80), 16)\n"
        "deaf = [socket.socket() for _ in range(40)]\n"
        "for s in deaf: s.setsockopt(0, 21, 255); s.setblocking(False)\n"
        "def flip():\n    while True:\n        for s in deaf: fcntl.fcntl(s, fcntl.F_SETFL, 0)\n"
        "threading.Thread(target=flip, daemon=True).start()\n"
        "for s in deaf: threading.Thread(target=libc.connect, args=(s.fileno(), to, 16), daemon=True).start()\n"
        "time.sleep(1)\n"
        "try: socket.socket().connect(('198.51.100.1', 80))\nexcept PermissionError: print('over', flush=True)\n"
        "os._exit(0)",
        ["api.example.test"],
        cpus=2,
        wall_clock_seconds=10,
    )

    assert told.printed == "over\n"


async def test_a_socket_that_lingers_keeps_nobody(sandboxes: Sandboxes) -> None:
    """Its program lets go of it while its connect waits, so that the broker is the last to close it."""
    told = await sandboxes.run(
        "import os, socket, struct, threading\n"
        "where = socket.create_server(('127.0.0.1', 0)); s = socket.socket()\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 1000))\n"
        "asking = threading.Thread(target=s.connect_ex, args=(('198.18.7.99', 7),)); asking.start()\n"
        "same = socket.socket(fileno=os.dup(s.fileno()))\n"
        "import time; time.sleep(0.5)\n"
        "same.connect(where.getsockname()); same.setblocking(False)\n"
        "try:\n    while True: same.send(bytes(1 << 16))\nexcept BlockingIOError: pass\n"
        "same.close(); s.close(); asking.join(); print('over')\n",
        ["198.18.7.0/24"],
        cpus=2,
        wall_clock_seconds=10,
    )

    assert told.printed == "over\n"


async def test_the_way_of_packets_is_not_the_programs_to_choose(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        HANDED
        + "".join(
            f"attempt(lambda: s.setsockopt({level}, {option}, bytes(136)))\n"
            for level, option in ((1, 25), (1, 62), (0, 4), (0, 42), (0, 46), (41, 6), (41, 57))
        ),
        [SERVER],
    )

    assert told.printed.splitlines() == ["EPERM"] * 7
