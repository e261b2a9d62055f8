"""Routes and addresses as the kernel has them now, read fast enough to be read whenever they are needed.

pyroute2 decodes each message into objects: with 110 pods a look at routes and addresses takes it 46 ms, all of it
holding the interpreter. Reading the fixed header and the few attributes that matter takes 0.4 ms, because our own
messages, nearly all of them, are recognised by one byte and passed over. So this one reader is written by hand, and
nothing need be cached for long. Writing is rare and stays with pyroute2.

A dump that the kernel marks as interrupted (something changed while it was written) is read again.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from reconciler.ipam.pool import Address, Network

_GET_ADDRESSES, _GET_ROUTES = 22, 26
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301
_INTERRUPTED = 0x10
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_MAIN_TABLE = 254
_SCOPE_LINK = 253
_DST, _OIF, _GATEWAY = 1, 4, 5  # RTA_…
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_BYTES = {socket.AF_INET: 4, socket.AF_INET6: 16}


@dataclass(frozen=True, slots=True)
class Route:
    dst: Network
    protocol: int
    via: Address | None
    link: int  # 0 where it leads nowhere (blackhole) or to several


@dataclass(frozen=True, slots=True)
class LinkAddress:
    address: Address
    prefix: int
    link: int


def main_routes(wanted: Callable[[int, int, int], bool] = lambda version, bits, protocol: True) -> list[Route]:
    return [
        _route(body)
        for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6))
        for body in _dump(_GET_ROUTES, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        if body[4] == _MAIN_TABLE and wanted(version, body[1], body[5])
    ]


def addresses() -> list[LinkAddress]:
    """Without those that are only meaningful on one link."""
    found = []
    for body in _dump(_GET_ADDRESSES, _ADDRESS.pack(0, 0, 0, 0, 0)):
        family, prefix, _flags, scope, link = _ADDRESS.unpack_from(body)
        if scope < _SCOPE_LINK and family in _BYTES:
            attributes = _attributes(body, _ADDRESS.size)
            own = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]  # IFA_ADDRESS is the peer where they differ
            found.append(LinkAddress(ip_address(own), prefix, link))
    return found


def link_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"  # gone since, or no interface at all


def _route(body: bytes) -> Route:
    family, bits, _, _, _, protocol, _, _, _ = _ROUTE.unpack_from(body)
    attributes = _attributes(body, _ROUTE.size)
    via = attributes.get(_GATEWAY)
    return Route(
        dst=ip_network((attributes.get(_DST, bytes(_BYTES[family])), bits)),
        protocol=protocol,
        via=ip_address(via) if via else None,
        link=int.from_bytes(attributes.get(_OIF, b""), sys.byteorder),
    )


def _attributes(body: bytes, offset: int) -> dict[int, bytes]:
    found = {}
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        found[kind] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _dump(kind: int, header: bytes) -> list[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        while (bodies := _dump_once(netlink, kind, header)) is None:
            pass
    return bodies


def _dump_once(netlink: socket.socket, kind: int, header: bytes) -> list[bytes] | None:
    netlink.send(_HEADER.pack(_HEADER.size + len(header), kind, _REQUEST_DUMP, 0, 0) + header)
    bodies: list[bytes] = []
    interrupted = False
    while True:
        packet = netlink.recv(1 << 16)
        offset = 0
        while offset < len(packet):
            length, message, flags, _, _ = _HEADER.unpack_from(packet, offset)
            body = packet[offset + _HEADER.size : offset + length]
            interrupted |= bool(flags & _INTERRUPTED)
            if message == _DONE:
                return None if interrupted else bodies
            if message == _ERROR:
                code = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                raise OSError(code, os.strerror(code))
            bodies.append(body)
            offset += (length + 3) & ~3
