"""Sockets: three families, a loopback of one's own, and no way to anything else."""

from typing import Final

from tests.hostile.probe import Probe, blocked, harmless
from tests.hostile.probes.shapes import node, number, raw, told

_F: Final = "sockets"
_SOCKET: Final = number(41, 198)
_ALLOWED: Final = {1, 2, 10, 16}
_FAMILIES: Final = {
    3: "ax25", 4: "ipx", 9: "x25", 15: "key", 17: "packet", 19: "econet", 21: "rds", 24: "pppox",
    26: "llc", 29: "can", 30: "tipc", 31: "bluetooth", 33: "rxrpc", 38: "alg", 39: "nfc", 40: "vsock", 41: "kcm",
    42: "qipcrtr", 43: "smc", 44: "xdp", 45: "mctp",
}  # fmt: skip
_BAD_TYPE: Final = 0x0F
"""A type that the kernel refuses with EINVAL before it looks for the family, so that no module is ever loaded."""
_NETLINK: Final = {
    "netfilter": 12,
    "xfrm": 6,
    "audit": 9,
    "kobject_uevent": 15,
    "generic": 16,
    "crypto": 21,
}
_PROTOCOLS: Final = {"icmp": 1, "dccp": 33, "esp": 50, "l2tp": 115, "sctp": 132, "udplite": 136, "mptcp": 262}
_CHANGES: Final = {
    "interface_down": "0x8914, b'lo'.ljust(40, bytes(1))",
    "interface_address": "0x8916, b'lo'.ljust(16, bytes(1)) + bytes([2, 0, 0, 0, 10, 0, 0, 1]) + bytes(16)",
    "interface_renamed": "0x8923, b'lo'.ljust(16, bytes(1)) + b'x'.ljust(24, bytes(1))",
}
_S: Final = "__import__('socket')."
_TCP: Final = f"{_S}create_connection(({{0}}), timeout=2)"
_UDP: Final = f"{_S}socket({{0}}, {_S}SOCK_DGRAM).connect({{1}})"
_NO_ROUTE: Final = {
    "metadata_v4": ("2", "('169.254.169.254', 80)"),
    "metadata_alibaba": ("2", "('100.100.100.200', 80)"),
    "metadata_v6": ("10", "('fd00:ec2::254', 80)"),
    "public_dns": ("2", "('8.8.8.8', 53)"),
    "public_v6": ("10", "('2001:4860:4860::8888', 53)"),
    "private_network": ("2", "('10.0.0.1', 22)"),
    "host_address_udp": ("2", "(HOST['address'], 53)"),
    "multicast": ("2", "('224.0.0.251', 5353)"),
}
_ABSTRACT: Final = f"{_S}socket({_S}AF_UNIX).connect('\\0' + HOST['abstract'])"
_ROOT: Final = "real_root+capabilities"

PROBES: Final = (
    *[
        raw(_F, f"family_{n}{'_' + _FAMILIES[n] if n in _FAMILIES else ''}", f"{_SOCKET}, {n}, {_BAD_TYPE}, 0",
            "EPERM", "seccomp")
        for n in range(46)
        if n not in _ALLOWED
    ],
    *[raw(_F, f"netlink_{name}", f"{_SOCKET}, 16, 3, {n}", "EPERM", "seccomp") for name, n in _NETLINK.items()],
    raw(_F, "family_high_bits", f"{_SOCKET}, (1 << 32) | 38, 15, 0", "EPERM", "seccomp"),
    raw(_F, "family_negative", f"{_SOCKET}, -1, 1, 0", "EPERM", "seccomp"),
    raw(_F, "socketpair_inet", f"{number(53, 199)}, 2, 1, 0, -1", "EPERM", "seccomp"),
    told(_F, "raw_icmp", f"{_S}socket(2, {_S}SOCK_RAW, 1)", "EPERM", f"seccomp+{_ROOT}"),
    told(_F, "raw_icmp6", f"{_S}socket(10, {_S}SOCK_RAW, 58)", "EPERM", f"seccomp+{_ROOT}"),
    told(_F, "raw_headers", f"{_S}socket(2, {_S}SOCK_RAW, 255)", "EPERM", f"seccomp+{_ROOT}"),
    told(_F, "bind_low_port", f"{_S}socket().bind(('127.0.0.1', 80))", "EACCES", _ROOT),
    told(_F, "transparent_socket", f"{_S}socket().setsockopt(0, 19, 1)", "EPERM", _ROOT),
    told(_F, "packet_mark", f"{_S}socket().setsockopt(1, 36, 1)", "EPERM", _ROOT),
    told(_F, "netfilter_table", f"{_S}socket(2, {_S}SOCK_STREAM).getsockopt(0, 64, 84)", "EPERM", _ROOT),
    *[told(_F, name, _UDP.format(*pair), "EACCES", "asked+route") for name, pair in _NO_ROUTE.items()],
    told(_F, "metadata_tcp", _TCP.format("'169.254.169.254', 80"), "EACCES", "asked+route"),
    told(_F, "host_address_tcp", _TCP.format("HOST['address'], HOST['port']"), "EACCES", "asked+route"),
    told(_F, "host_loopback", _TCP.format("'127.0.0.1', HOST['port']"), "ECONNREFUSED", "net_ns"),
    told(_F, "host_loopback_v6", _TCP.format("'::1', HOST['port6']"), "ECONNREFUSED", "net_ns"),
    told(_F, "host_loopback_by_name", _TCP.format("'localhost', HOST['port']"), "ECONNREFUSED", "net_ns"),
    told(_F, "host_loopback_by_zero", _TCP.format("'0.0.0.0', HOST['port']"), "ECONNREFUSED", "net_ns"),
    told(_F, "host_loopback_mapped", _TCP.format("'::ffff:127.0.0.1', HOST['port']"), "ECONNREFUSED", "net_ns"),
    told(_F, "host_abstract_socket", _ABSTRACT, "ECONNREFUSED", "net_ns"),
    told(_F, "host_path_socket", f"{_S}socket({_S}AF_UNIX).connect(HOST['socket'])", "ENOENT", "host_root"),
    Probe(
        name="neighbour_loopback",
        family=_F,
        beside="import socket\ns = socket.create_server(('127.0.0.1', 45123))\nprint('here')\ntime.sleep(5)",
        code=f"tell(lambda: {_TCP.format(repr('127.0.0.1') + ', 45123')})",
        expect=blocked("ECONNREFUSED"),
        control="net_ns",
    ),
    Probe(
        name="neighbour_abstract_socket",
        family=_F,
        beside="import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('\\0neighbour')\ns.listen()\nprint('here')\n"
        "time.sleep(5)",
        code=f"tell(lambda: {_S}socket({_S}AF_UNIX).connect('\\0neighbour'))",
        expect=blocked("ECONNREFUSED"),
        control="net_ns",
    ),
    Probe(
        name="interfaces",
        family=_F,
        code="names = sorted(l.split(':')[0].strip() for l in read('/proc/net/dev').splitlines()[2:])\n"
        "check(names == ['lo'], 'blocked: lo', names)",
        expect=blocked("lo"),
        control="net_ns",
    ),
    Probe(
        name="unix_sockets_listed",
        family=_F,
        code="seen = read('/proc/net/unix').splitlines()[1:]\ncheck(not seen, 'blocked: none', seen)",
        expect=blocked("none"),
        control="net_ns",
    ),
    Probe(
        name="tcp_sockets_listed",
        family=_F,
        code="seen = read('/proc/net/tcp').splitlines()[1:]\ncheck(not seen, 'blocked: none', seen)",
        expect=blocked("none"),
        control="net_ns",
    ),
    Probe(
        name="routes_listed",
        family=_F,
        code="seen = read('/proc/net/route').splitlines()[1:]\ncheck(not seen, 'blocked: none', seen)",
        expect=blocked("none"),
        control="route",
    ),
    Probe(
        name="names_resolve_nowhere",
        family=_F,
        code="import socket\ntry: got = socket.getaddrinfo('example.com', 443)\n"
        "except socket.gaierror as e: enclave.result(f'blocked: {e.errno}')\nelse: enclave.result(f'leaked: {got}')",
        expect=blocked("-2"),
        control="fixed: removing both the namespace and /etc would send packets off this machine",
    ),
    told(_F, "ping_socket", f"{_S}socket(2, {_S}SOCK_DGRAM, 1)", "EPERM", "seccomp"),
    told(_F, "raw_tcp", f"{_S}socket(2, {_S}SOCK_RAW, 6)", "EPERM", _ROOT),
    *[raw(_F, f"protocol_{name}", f"{_SOCKET}, 2, {_BAD_TYPE}, {n}", "EPERM", "seccomp")
      for name, n in _PROTOCOLS.items()],
    *[raw(_F, name, f"{number(16, 29)}, ({_S}socket(2, 2)).detach(), {args}", "EPERM", f"seccomp+{_ROOT}")
      for name, args in _CHANGES.items()],
    Probe(
        name="netlink_changes_nothing",
        family=_F,
        code="import socket, struct\ns = socket.socket(16, 3, 0)\n"
        "s.send(struct.pack('=IHHIIBxHiII', 32, 16, 5, 1, 0, 0, 0, 1, 0, 1))\n"
        "got = -struct.unpack_from('=i', s.recv(4096), 16)[0]\n"
        "enclave.result('blocked: ' + errno.errorcode[got] if got else 'leaked: the interface is down')",
        expect=blocked("EPERM"),
        control=_ROOT,
    ),
    Probe(
        name="netlink_lists_own_interfaces",
        family=_F,
        code="import socket\nnames = [name for _, name in socket.if_nameindex()]\n"
        "check(names == ['lo'], 'blocked: lo', names)",
        expect=blocked("lo"),
        control="net_ns",
    ),
    Probe(
        name="loopback_of_own_works",
        family=_F,
        code="import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "c = socket.create_connection(s.getsockname())\nenclave.result('harmless: connected')",
        expect=harmless("connected"),
        control="fixed: it is to work",
    ),
    node(
        _F,
        "node_host_loopback",
        "require('net').connect(HOST.port, '127.0.0.1').on('connect', () => { enclave.result('leaked: connected'); "
        "process.exit(); }).on('error', (e) => enclave.result('blocked: ' + e.code));",
        blocked("ECONNREFUSED"),
        "net_ns",
    ),
    node(
        _F,
        "node_metadata",
        "const s = require('dgram').createSocket('udp4');\nlet told = false;\nconst say = (e) => { if (told) return; "
        "told = true; enclave.result(e ? 'blocked: ' + e.code : 'leaked: routed'); s.close(); };\n"
        "s.on('error', say);\ns.connect(80, '169.254.169.254', say);",
        blocked("EACCES"),
        "asked+route",
    ),
    node(
        _F,
        "node_interfaces",
        "const names = Object.keys(require('os').networkInterfaces());\n"
        "check(names.join() === 'lo', 'blocked: lo', names);",
        blocked("lo"),
        "net_ns",
    ),
    node(
        _F,
        "node_resolves_nothing",
        "require('dns').lookup('example.com', (e, a) => enclave.result(e ? 'blocked: ' + e.code : 'leaked: ' + a));",
        blocked("ENOTFOUND"),
        "fixed: as names_resolve_nowhere",
    ),
)  # fmt: skip
