"""What this machine's kernel thinks of an address: somebody else's, or its own (rtnetlink(7))."""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST: Final = 1
_RTA_DST: Final = 1
_RTN_UNICAST: Final = 1
_NLMSG_ERROR: Final = 2


class Routes:
    """Questions to the routing table, of which the addresses of every interface are part, as it is now."""

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._netlink.bind((0, 0))

    def leads_away(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether a packet to the address would leave this machine: not to itself, not to all, and not nowhere."""
        packed = address.packed
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        route = struct.pack("=BBBBBBBBI", family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
        attribute = struct.pack("=HH", 4 + len(packed), _RTA_DST) + packed
        header = struct.pack("=IHHII", 16 + len(route) + len(attribute), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
        self._netlink.send(header + route + attribute)
        reply = self._netlink.recv(4096)
        kind = struct.unpack_from("=IH", reply)[1]
        return kind != _NLMSG_ERROR and bool(reply[16 + 7] == _RTN_UNICAST)

    def close(self) -> None:
        """Ask no more."""
        self._netlink.close()
