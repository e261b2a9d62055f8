"""rtnetlink's numbers, and its one idea: fixed headers followed by nested (length, type, value) attributes.

The names are the kernel's, without their prefixes; `requests.py` writes these, `replies.py` reads them.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, GETNEIGH = 28, 30
NEWRULE, DELRULE, GETRULE = 32, 33, 34
NEWNSID, GETNSID = 88, 90

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst bits, src bits, tos, table, protocol, scope, type, flags
RULE = struct.Struct("=BBBBBxxBI")  # family, dst bits, src bits, tos, table, action, flags
NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
NAMESPACE = struct.Struct("=Bxxx")  # family
ATTRIBUTE = struct.Struct("=HH")  # length, type
U32 = struct.Struct("=I")

IFF_UP, IFF_RUNNING = 0x1, 0x40
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO = 1, 3, 4, 5, 18
IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 27, 28, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
RTEXT_FILTER_SKIP_STATS = 8

IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS, IFA_RT_PRIORITY = 1, 2, 6, 8, 9
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x2, 0x200

RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_METRICS, RTA_TABLE = 1, 2, 4, 5, 6, 8, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_TABLE_MAIN, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 254, 0, 253, 254
RTN_UNICAST, RTN_LOCAL, RTN_UNREACHABLE = 1, 2, 7
RTM_F_CLONED, RTM_F_LOOKUP_TABLE = 0x200, 0x1000

FRA_DST, FRA_PRIORITY, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_PROTOCOL = 1, 6, 14, 15, 21
FR_ACT_TO_TBL = 1

NDA_DST, NDA_LLADDR, NDA_IFINDEX = 1, 2, 8
NUD_PERMANENT = 0x80

NETNSA_NSID, NETNSA_FD = 1, 3

FAMILY = {4: AF_INET, 6: AF_INET6}  # of an IP version


def attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) & 3)


def number(kind: int, value: int) -> bytes:
    return ATTRIBUTE.pack(8, kind) + U32.pack(value)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    found = {}
    while offset + 4 <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, offset)
        found[kind] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found
