"""The node's nftables table: masquerade for what leaves the cluster.

One table, `inet headcni`, told from a foreign one of the same name by an empty chain in it. All we write goes in as
one `nft -f -`, which the kernel takes whole or not at all, so there is no instant without masquerade and nothing to
repair after a kill. Only our own chain is flushed: policy lives in the same table, and rules stay in the kernel when
the daemon stops. No packet marks: a mesh and other plugins own bits of it, and none is needed.

Pods of other nodes see a pod as it is, also through the mesh. The rest of a tailnet (100.64.0.0/10,
fd7a:115c:a1e0::/48, and networks behind its nodes) sees the pod's node, as the rest of the world does: who accepts no
routes could not answer a pod. The nodes of this cluster could, but which those are changes, and a rule that follows
would be a second truth. What others ask a pod, the pod answers: a connection is judged by its first packet.

Whether the chain still is as we wrote it is told by listing it after the write and again later, and comparing the
two texts with each other. They are never parsed: the listing's format changes between releases of nft. The networks
stand in the rules and not in named sets, so that this one listing shows everything: several sets and a chain cannot
be listed at once (nft 1.0.6 loses them from its cache), and they change too seldom for a set to be of use.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from enum import Enum
from ipaddress import collapse_addresses, ip_network
from typing import Any

from reconciler.ipam.pool import Network
from reconciler.node.wish import LINK_PREFIX, Problem

Nft = Callable[[str], "str | Problem"]

_OWNER = "owned_by_headcni"
_CHAIN = "leaving_cluster"
_NEVER = tuple(map(ip_network, ("169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "fe80::/10", "ff00::/8")))


def run_nft(script: str) -> str | Problem:
    binary = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if binary is None:
        return Problem("the nft command is missing", "install it: apt-get install nftables")
    command = (binary, "--stateless", "--file", "-")
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        first = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        return Problem(f"nft refused: {first}", "the kernel needs nf_tables with NAT, and the daemon CAP_NET_ADMIN")
    return done.stdout


def ruleset(table: str, pods: Iterable[Network], cluster: Iterable[Network], masquerade: bool) -> str:
    """Pods never see each other's traffic masqueraded, so their own networks count as part of the cluster."""
    pods = tuple(pods)
    lines = [
        f"add table inet {table}",
        f"add chain inet {table} {_OWNER}",
        f"add chain inet {table} {_CHAIN} {{ type nat hook postrouting priority srcnat; policy accept; }}",
        f"flush chain inet {table} {_CHAIN}",
    ]
    for version, ip in ((4, "ip"), (6, "ip6")):
        sources, inside = _interval(version, pods), _interval(version, (*pods, *cluster, *_NEVER))
        if masquerade and sources:
            lines.append(
                f"add rule inet {table} {_CHAIN} {ip} saddr {{ {sources} }} {ip} daddr != {{ {inside} }} "
                f'oifname != "{LINK_PREFIX}*" masquerade fully-random'
            )
    return "\n".join(lines) + "\n"


def _interval(version: int, networks: Iterable[Network]) -> str:
    """Those of one family, without overlaps: an interval set takes none."""
    chosen: Any = (network for network in networks if network.version == version)
    return ", ".join(map(str, collapse_addresses(chosen)))


class Owner(Enum):
    NOBODY = "nobody"
    US = "us"
    SOMEBODY = "somebody"


class Table:
    def __init__(self, name: str, nft: Nft = run_nft) -> None:
        self._name = name
        self._nft = nft
        self._as_written: str | None = None
        self._refusal: Problem | None = None

    def write(self, pods: Iterable[Network], cluster: Iterable[Network], masquerade: bool) -> tuple[str, ...]:
        owner = self._owner()
        self._refusal = None
        if isinstance(owner, Problem):
            self._refusal = owner
        elif owner is Owner.SOMEBODY:
            self._refusal = Problem(
                f"nftables has a table inet {self._name} that is not ours",
                "rename or remove it: this name is HeadCNI's",
            )
        if self._refusal:
            return ()
        before = self._listing()
        loaded = self._nft(ruleset(self._name, pods, cluster, masquerade))
        if isinstance(loaded, Problem):
            self._refusal = loaded
            return ()
        after = self._listing()
        self._as_written = after if isinstance(after, str) else None
        return () if before == after else (f"nftables: wrote the masquerade rules of table inet {self._name}",)

    def problems(self) -> tuple[Problem, ...]:
        if self._refusal:
            return (self._refusal,)
        if self._listing() == self._as_written:
            return ()
        return (
            Problem(
                f"the masquerade rules in nftables table inet {self._name} are not as we wrote them",
                "the daemon writes them again; find out who changes or flushes them",
            ),
        )

    def delete(self) -> tuple[str | Problem, ...]:
        """What was done, and what could not be."""
        owner = self._owner()
        if isinstance(owner, Problem):
            return (owner,)
        if owner is not Owner.US:
            return () if owner is Owner.NOBODY else (f"left nftables table inet {self._name}: it is not ours",)
        done = self._nft(f"delete table inet {self._name}\n")
        return (done if isinstance(done, Problem) else f"nftables: deleted table inet {self._name}",)

    def _owner(self) -> Owner | Problem:
        tables = self._nft("list tables inet\n")
        if isinstance(tables, Problem):
            return tables
        if f"table inet {self._name}" not in tables.splitlines():
            return Owner.NOBODY
        marker = self._nft(f"list chain inet {self._name} {_OWNER}\n")
        return Owner.US if isinstance(marker, str) else Owner.SOMEBODY

    def _listing(self) -> str | Problem:
        return self._nft(f"list chain inet {self._name} {_CHAIN}\n")
