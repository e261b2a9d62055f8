"""What is looked at when a server could not be reached: its certificate and clock, and the rules for its address.

Only after a failure, each look with a bound, in the thread of the failed call. The certificate is fetched without being
believed, and nothing is sent that is ours; the answer to that unsigned question tells the server's clock.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path

from reconciler.kube.access import Access
from reconciler.kube.certificate import Certificate, from_der

LOOK = 2.0  # seconds
_QUESTION = b"HEAD /livez HTTP/1.0\r\n\r\n"
_IPVS = Path("/proc/thread-self/net/ip_vs")


@dataclass(frozen=True, slots=True)
class Evidence:
    now: float = 0.0  # by this node's clock
    peer: Certificate | None = None
    clock: float | None = None  # the server's, by its own word
    rules: tuple[str, ...] = ()  # that lead from a Service's address to somebody
    looked: tuple[str, ...] = ()  # where there is none, or why it could not be read


def gather(access: Access, error: Exception, now: float) -> Evidence:
    """What this failure makes worth looking at."""
    if "certificate verify failed" in str(error).lower() and not access.proxied:
        peer, clock = certificate(access.host, access.port, access.server_name)
        return Evidence(now, peer, clock)
    if access.service:
        found, looked = service_rules(access.host, access.port)
        return Evidence(now, rules=found, looked=looked)
    return Evidence(now)


def certificate(host: str, port: int, server_name: str) -> tuple[Certificate | None, float | None]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=LOOK) as plain,
            context.wrap_socket(plain, server_hostname=server_name or host) as secured,
        ):
            peer = from_der(secured.getpeercert(binary_form=True) or b"")
            return peer, _clock(secured)
    except OSError:  # of which TLS errors are a kind
        return None, None


def _clock(secured: ssl.SSLSocket) -> float | None:
    try:
        secured.sendall(_QUESTION)
        head = secured.recv(4096).decode("ascii", "replace")
    except OSError:
        return None
    for line in head.splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "date":
            try:
                return parsedate_to_datetime(value.strip()).timestamp()
            except ValueError:
                return None
    return None


def service_rules(host: str, port: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Found, and looked at in vain: for each way in which kube-proxy makes a Service's address work."""
    family = "ip6" if ":" in host else "ip"
    element = _nft("get", "element", family, "kube-proxy", "service-ips", f"{{ {host} . tcp . {port} }}")
    chain = _nft("list", "chain", family, "nat", "KUBE-SERVICES")
    present = {
        f"nftables map {family} kube-proxy service-ips": element is not None,
        f"iptables chain {family} nat KUBE-SERVICES": chain is not None and f"{host} " in chain,
        "ipvs": _ipvs(host, port),
    }
    return tuple(place for place in present if present[place]), tuple(place for place in present if not present[place])


def _nft(*words: str) -> str | None:
    """What it wrote; `None`: there is no such thing, or it cannot be asked."""
    binary = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if binary is None:
        return None
    try:
        done = subprocess.run((binary, *words), capture_output=True, timeout=LOOK, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _ipvs(host: str, port: int) -> bool:
    try:
        table = _IPVS.read_text()
    except OSError:
        return False
    packed = ip_address(host).packed.hex().upper()
    shown = packed if len(packed) == 8 else "[" + ":".join(packed[at : at + 4] for at in range(0, 32, 4)).lower() + "]"
    return f"TCP  {shown}:{port:04X} " in table
