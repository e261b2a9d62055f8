"""Advertising by the mesh: an attachment is advertised while the prefixes that cover its addresses are in force.

This only looks at what the loop last concluded, so it costs an ADD nothing and cannot fail it; when a conclusion
changes, the loop moves the attachments at once, instead of at their next try.

With `mesh.advertise: pod` each address is a prefix of its own. Which ones are wanted is not remembered here, but
derived from the records (`hosts`), so that it cannot drift; the loop is only told to look.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_network

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Chain
from reconciler.mesh.networks import covers
from reconciler.settings import IpAddress, Network
from statemachine.attachment import Attachment

NOT_YET = Refusal(Trouble.NOT_ANNOUNCED, "the mesh was not looked at yet", "it is, seconds after the daemon's start")


class MeshAdvertiser:
    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called when an attachment comes or goes."""
        self._changed = changed
        self.chains: tuple[Chain, ...] | None = None  # None: not looked yet

    async def advertise(self, record: Attachment) -> Refusal | None:
        self._changed()
        return self.missing(record)

    async def withdraw(self, record: Attachment) -> Refusal | None:
        """Never waits: what must still be withdrawn is in `mesh.json`, whatever becomes of tailscaled."""
        self._changed()
        return None

    def missing(self, record: Attachment) -> Refusal | None:
        if self.chains is None:
            return NOT_YET
        for host in hosts(record):
            refusal = self._missing_for(host)
            if refusal is not None:
                return refusal
        return None

    def _missing_for(self, host: Network) -> Refusal | None:
        covering = [chain for chain in self.chains or () if covers(chain.prefix, host)]
        if not covering:
            what = f"{host.network_address} lies in no prefix that this node announces"
            return Refusal(Trouble.NOT_ANNOUNCED, what, "its subnet is not network.podCIDR.nodeLocal: add it there")
        if any(chain.in_force for chain in covering):
            return None
        return next((chain.missing for chain in covering if chain.missing), NOT_YET)


def hosts(record: Attachment) -> set[Network]:
    return {_host(each.ip) for each in record.addresses}


@lru_cache(1 << 14)
def _host(address: IpAddress) -> Network:
    return ip_network(address)
