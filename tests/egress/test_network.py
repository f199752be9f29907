"""Sandboxes on a real network: what a policy lets through, what it does not, and what is told of both."""

from unittest import mock

import pytest

from enclave.backends.local.broker import Broker
from enclave.core.grant import Grant
from enclave.egress import ledger
from tests.egress.conftest import Sandboxes
from tests.egress.site import HERE, OTHER, SERVER, Site

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox, pytest.mark.root]

CLIENT = """
import errno, os, socket, ssl, sys, urllib.request
def attempt(act):
    try: print(act())
    except OSError as error:
        error = getattr(error, 'reason', error)
        print('unknown' if isinstance(error, socket.gaierror) else errno.errorcode.get(error.errno, error))
unchecked = ssl._create_unverified_context()
def get(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    context = unchecked if url.startswith('https') else None
    with urllib.request.urlopen(request, timeout=10, context=context) as answer: return answer.status
def peer(address, port, timeout=None):
    with socket.create_connection((address, port), timeout=timeout) as s:
        s.sendall(b'ping')
        got = s.recv(4)
        return s.getpeername()[:2], got
"""


async def test_a_rule_on_addresses_hands_over_the_very_connection(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        CLIENT
        + f"attempt(lambda: peer('{SERVER}', 7))\n"
        + f"attempt(lambda: peer('{SERVER}', 7, timeout=5))\n"
        + f"attempt(lambda: get('http://{SERVER}/'))\nattempt(lambda: get('https://{SERVER}/'))\n",
        [SERVER],
    )

    same = f"(('{SERVER}', 7), b'ping')"
    assert told.printed.splitlines() == [same, same, "200", "200"]
    assert told.of("allowed") == [(SERVER, 7), (SERVER, 7), (SERVER, 80), (SERVER, 443)]
    assert [one.rule for one in told.egress] == [SERVER] * 8
    assert sorted(told.of("closed")) == sorted(told.of("allowed"))
    echoed = [one for one in told.egress if one.verdict == "closed" and one.port == 7]
    assert [(one.sent_bytes, one.received_bytes) for one in echoed] == [(4, 5), (4, 5)]  # the peer's end is one


async def test_a_session_that_asks_for_nothing_is_not_told_to_the_broker(sandboxes: Sandboxes) -> None:
    with mock.patch.object(Broker, "admit", autospec=True, side_effect=Broker.admit) as admit:
        for _ in range(3):
            assert (await sandboxes.run("print('hi')")).end.code == 0
        assert admit.call_count == 0

        await sandboxes.run(CLIENT + f"attempt(lambda: peer('{SERVER}', 7))")
        assert admit.call_count == 1


async def test_what_no_rule_names_is_refused_at_once_and_told(sandboxes: Sandboxes, nothing_reached: None) -> None:
    told = await sandboxes.run(
        CLIENT + "import time\nbefore = time.monotonic()\n"
        f"attempt(lambda: peer('{OTHER}', 7))\nattempt(lambda: peer('{OTHER}', 80, timeout=5))\n"
        f"attempt(lambda: get('http://{OTHER}/'))\nattempt(lambda: peer('{SERVER}', 22))\n"
        "print(time.monotonic() - before < 5)",
        [f"{SERVER}:1-9000"],
    )

    assert told.printed.splitlines() == ["EACCES"] * 4 + ["True"]
    assert told.of("denied") == [(OTHER, 7), (OTHER, 80), (OTHER, 80), (SERVER, 22)]
    assert told.egress[-1].rule == f"{SERVER}:22", "what the operator denies is denied whatever a session allows"


@pytest.mark.parametrize(
    ("target", "port"),
    [
        ("169.254.169.254", 80), ("100.100.100.200", 80), ("169.254.0.1", 1), ("224.0.0.1", 1), ("255.255.255.255", 1),
        (HERE, 8088), ("10.1.2.3", 443), ("192.168.0.1", 443), ("fd00:ec2::254", 80), ("::ffff:169.254.169.254", 80),
        (f"::ffff:{HERE}", 8088), ("64:ff9b::a9fe:a9fe", 80), ("fe80::1", 80), ("2002:a9fe:a9fe::1", 80),
    ],
)  # fmt: skip
async def test_some_addresses_are_reached_under_no_rule(sandboxes: Sandboxes, target: str, port: int) -> None:
    told = await sandboxes.run(CLIENT + f"attempt(lambda: peer('{target}', {port}))", ["0.0.0.0/0", "::/0"])

    assert told.printed == "EACCES\n"
    assert [one.verdict for one in told.egress] == ["denied"]
    assert told.egress[0].reason != "no rule allows it"


async def test_a_name_is_resolved_pinned_and_checked_on_the_wire(sandboxes: Sandboxes, nothing_reached: None) -> None:
    told = await sandboxes.run(
        CLIENT + "attempt(lambda: get('http://api.example.test/'))\nattempt(lambda: get('https://api.example.test/'))\n"
        f"attempt(lambda: get('http://{SERVER}/'))\n"
        "attempt(lambda: get('http://api.example.test/', Host='also.example.test'))\n"
        f"attempt(lambda: peer('{SERVER}', 7))\n"
        "plain = socket.create_connection(('api.example.test', 443))\n"
        "attempt(lambda: unchecked.wrap_socket(plain, server_hostname='also.example.test').version())\n"
        "plain = socket.create_connection(('api.example.test', 443))\n"
        "attempt(lambda: unchecked.wrap_socket(plain).version())\n",
        ["api.example.test"],
    )

    assert told.printed.splitlines() == ["200", "200", *["ECONNRESET"] * 5]
    assert told.of("allowed") == [(SERVER, 80), (SERVER, 443)]
    assert {one.name for one in told.egress if one.verdict == "allowed"} == {"api.example.test"}
    denied = [(one.name, one.reason) for one in told.egress if one.verdict == "denied"]
    assert [name for name, _ in denied] == [SERVER, "also.example.test", None, "also.example.test", None]
    assert "neither TLS nor HTTP" in denied[2][1]
    assert "names no server" in denied[4][1]


async def test_names_that_no_rule_allows_do_not_resolve(sandboxes: Sandboxes) -> None:
    names = ["other.example.test", "api.example.test.evil.test", "example.com", "secret-in-a-name.evil.test"]

    told = await sandboxes.run(
        CLIENT + f"for name in {names}: attempt(lambda: socket.getaddrinfo(name, 80))", ["api.example.test"]
    )

    assert told.printed.splitlines() == ["unknown"] * 4
    assert told.of("denied") == [(name, 0) for name in names]
    assert {one.protocol for one in told.egress} == {"dns"}


@pytest.mark.parametrize("name", ["own.example.test", "metadata.example.test", "inside.example.test"])
async def test_an_allowed_name_never_stands_for_a_forbidden_address(sandboxes: Sandboxes, name: str) -> None:
    told = await sandboxes.run(CLIENT + f"attempt(lambda: socket.getaddrinfo('{name}', 80))", ["*.example.test"])

    assert told.printed == "unknown\n"


async def test_an_address_that_was_not_looked_up_is_not_its_names(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(CLIENT + f"attempt(lambda: get('http://{SERVER}/'))", ["api.example.test"])

    assert told.printed == "EACCES\n"


async def test_nothing_is_resolved_where_nothing_is_allowed(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(CLIENT + "attempt(lambda: socket.getaddrinfo('api.example.test', 80))")

    assert told.printed == "unknown\n"
    assert told.of("denied") == [("api.example.test", 0)]


QUESTION = """
import socket, struct
def ask(name, kind, port=53):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    question = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!HH", kind, 1)
    s.sendto(question, ("127.0.0.1", port))
    answer = s.recv(4096)
    return answer[3] & 15, struct.unpack_from("!H", answer, 6)[0]
"""


async def test_only_addresses_are_answered(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        QUESTION + "for kind in (1, 28, 16, 255, 65, 5, 2): print(ask('api.example.test', kind))\n"
        "print(ask('c2VjcmV0.api.example.test', 16))",
        ["api.example.test"],
    )

    assert told.printed.splitlines() == ["(0, 1)"] + ["(0, 0)"] * 6 + ["(3, 0)"]


async def test_only_tcp_leaves(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        CLIENT + "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"attempt(lambda: u.sendto(b'x', ('{SERVER}', 53)))\nattempt(lambda: u.connect(('{SERVER}', 443)))\n"
        f"attempt(lambda: u.sendmsg([b'x'], [], 0, ('{SERVER}', 443)))\n"
        "t = socket.socket()\n"
        f"attempt(lambda: t.sendto(b'x', 0x20000000, ('{SERVER}', 80)))\n"
        "attempt(lambda: t.setsockopt(6, 30, 1))\n",
        ["0.0.0.0/0"],
    )

    assert told.printed.splitlines() == ["EACCES"] * 3 + ["EPERM"] * 2
    assert {(one.verdict, one.protocol) for one in told.egress} == {("denied", "udp")}


async def test_own_sockets_go_on_as_ever(sandboxes: Sandboxes) -> None:
    """With sockets of the machine in a session its own connects are made by the broker: they look the same."""
    code = CLIENT + (
        "import asyncio\n"
        "four = socket.create_server(('127.0.0.1', 0))\n"
        "six = socket.create_server(('::1', 0), family=socket.AF_INET6)\n"
        "for server in (four, six):\n    where = server.getsockname()\n"
        "    attempt(lambda: socket.create_connection(where[:2], timeout=3).getpeername() == where)\n"
        "attempt(lambda: socket.create_connection(four.getsockname()).getpeername() == four.getsockname())\n"
        "attempt(lambda: socket.create_connection(('127.0.0.1', 1)))\n"
        "local = socket.socket(socket.AF_UNIX); local.bind('here.sock'); local.listen()\n"
        "for path in ('here.sock', '/work/here.sock', './here.sock'):\n"
        "    s = socket.socket(socket.AF_UNIX); attempt(lambda: s.connect(path))\n"
        "attempt(lambda: socket.socket(socket.AF_UNIX).connect('/nowhere'))\n"
        "abstract = socket.socket(socket.AF_UNIX); abstract.bind('\\0name'); abstract.listen()\n"
        "attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0name'))\n"
        "a, b = socket.socketpair(); print(socket.send_fds(a, [b'x'], [1]), len(socket.recv_fds(b, 1, 1)[1]))\n"
        "async def main():\n"
        "    async def met(reader, writer): writer.write(await reader.read(9)); writer.close()\n"
        "    async with await asyncio.start_server(met, '127.0.0.1', 0) as served:\n"
        "        reader, writer = await asyncio.open_connection(*served.sockets[0].getsockname())\n"
        "        writer.write(b'loop'); print(await reader.read())\n"
        "asyncio.run(main())\n"
    )
    bare, raw = await sandboxes.run(code), await sandboxes.run(code, ["0.0.0.0/0"])

    assert bare.printed == raw.printed
    assert bare.printed.splitlines() == [
        *["True"] * 3, "ECONNREFUSED", *["None"] * 3, "ENOENT", "None", "1 1", "b'loop'"
    ]  # fmt: skip
    assert (bare.egress, raw.egress) == ([], [])


@pytest.mark.node
async def test_node_reaches_what_is_allowed(sandboxes: Sandboxes, nothing_reached: None) -> None:
    told = await sandboxes.run(
        "const net = require('net');\n"
        f"net.connect(7, '{SERVER}').on('data', d => {{ console.log(String(d)); process.exit(); }}).end('raw');\n",
        [SERVER],
        language="node",
    )
    named = await sandboxes.run(
        "fetch('http://api.example.test/').then(r => console.log(r.status))\n"
        f"  .then(() => fetch('http://{OTHER}/')).catch(e => console.log(e.cause.code))\n"
        "  .then(() => fetch('http://other.example.test/')).catch(e => console.log(e.cause.code));",
        ["api.example.test"],
        language="node",
    )

    assert told.printed == "raw\n"
    assert named.printed.splitlines() == ["200", "EACCES", "ENOTFOUND"]


async def test_bytes_in_bulk_arrive_whole(sandboxes: Sandboxes) -> None:
    size = 64 << 20
    for host, rule in ((SERVER, SERVER), ("api.example.test", "api.example.test")):
        told = await sandboxes.run(
            "import hashlib, urllib.request\n"
            f"data = urllib.request.urlopen('http://{host}/big/{size}')\n"
            "print(sum(len(part) for part in iter(lambda: data.read(1 << 20), b'')))",
            [rule],
        )
        assert told.printed == f"{size}\n"
        assert told.egress[-1].received_bytes > size


async def test_a_thousand_connections_are_carried_at_once(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        "import resource, socket\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "head = b'GET / HTTP/1.1\\r\\nHost: api.example.test\\r\\n\\r\\n'\n"
        "held = []\n"
        "for _ in range(1000):\n"
        "    s = socket.create_connection(('api.example.test', 80)); s.sendall(head); held.append(s)\n"
        "print({s.recv(15) for s in held})",
        ["api.example.test"],
        wall_clock_seconds=50,
        cpu_seconds=50,
    )

    assert told.printed == "{b'HTTP/1.1 200 OK'}\n"
    assert sum(one.count for one in told.egress if one.verdict == "allowed") == 1000
    assert sum(one.count for one in told.egress if one.verdict == "closed") == 1000


async def test_a_flood_of_attempts_is_summed_up(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        "import socket\n"
        "for n in range(3000):\n"
        "    try: socket.create_connection((f'198.51.{n >> 8}.{n & 255}', 80))\n"
        "    except PermissionError: pass\n",
        wall_clock_seconds=50,
        cpu_seconds=50,
    )

    assert told.end.code == 0
    assert sum(one.count for one in told.egress) == 3000
    assert len(told.egress) < ledger.MOST
    assert {one.verdict for one in told.egress} == {"denied"}


SECRET = "sk_live_51Habcdefghijk"
HUNT = """
import os, re
def hunt(*halves):
    # Searched for in two halves, so that what looks does not hold what is looked for.
    whole = re.compile(b''.join(re.escape(half.encode()) + b'()' for half in halves)[:-2])
    found = [name for name, value in os.environ.items() if whole.search(value.encode())]
    for pid in filter(str.isdigit, os.listdir('/proc')):
        for name in ('environ', 'cmdline', 'maps'):
            try: found += [f'/proc/{pid}/{name}'] * bool(whole.search(open(f'/proc/{pid}/{name}', 'rb').read()))
            except OSError: pass
    maps = re.findall(r'^([0-9a-f]+)-([0-9a-f]+) r', open('/proc/self/maps').read(), re.M)
    mem = open('/proc/self/mem', 'rb', 0)
    for low, high in maps:
        try: mem.seek(int(low, 16)); data = mem.read(int(high, 16) - int(low, 16))
        except (OSError, OverflowError, ValueError): continue
        found += [low] * bool(whole.search(data))
    return found
"""


async def test_a_binding_uses_a_secret_that_the_program_never_sees(sandboxes: Sandboxes) -> None:
    grant = Grant(name="bank", url="https://api.example.test/v1", inject="bearer", secret=SECRET)
    half = len(SECRET) // 2

    told = await sandboxes.run(
        "import os, urllib.request\n" + HUNT + "url = os.environ['ENCLAVE_SVC_BANK']\n"
        "seen = urllib.request.urlopen(url + '/charges?x=1').read().decode()\n"
        "print(seen.split()[1], 'authorization: bearer' in seen.lower())\n"
        f"print(hunt({SECRET[:half]!r}, {SECRET[half:]!r}))",
        bindings=[grant],
    )

    assert told.printed.splitlines() == ["/v1/charges?x=1 True", "[]"]
    call = told.invocations[0]
    assert (call.binding, call.method, call.path, call.status, call.error) == ("bank", "GET", "/charges", 200, None)
    assert SECRET not in repr(told)


async def test_without_a_grant_there_is_no_variable_and_no_way(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run(
        CLIENT + "print([name for name in os.environ if 'SVC' in name])\n"
        "attempt(lambda: get('http://127.77.0.1/'))\nattempt(lambda: peer('127.0.0.1', 80))"
    )

    assert told.printed.splitlines() == ["[]", "ECONNREFUSED", "ECONNREFUSED"]
    assert told.invocations == []


async def test_a_call_that_only_an_exploit_makes_ends_the_session(sandboxes: Sandboxes) -> None:
    told = await sandboxes.run("import ctypes\nctypes.CDLL(None).syscall(321, 0, 0, 0)\nprint('on')")

    assert told.end.kill_reason == "syscall_forbidden"
    assert [one.call for one in told.violations] == ["bpf"]
    assert told.printed == ""


def test_the_servers_were_reached_only_where_that_was_allowed(site: Site) -> None:
    assert [met for met in site.seen() if met.startswith(OTHER)] == []
