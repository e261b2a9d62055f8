"""What was looked at: this node, the cluster, and what HeadCNI would take for this node's pod CIDR."""

from __future__ import annotations

from dataclasses import dataclass

from cni.spec import Refusal
from reconciler.migrate.cluster import Cluster
from reconciler.migrate.flannel import Found
from reconciler.migrate.formats import NetConf, SubnetEnv
from reconciler.node.podcidr import Choice
from reconciler.parsers import Network


@dataclass(frozen=True, slots=True)
class Seen:
    node: str  # the name of this one
    here: Found
    choice: Choice  # what HeadCNI finds to be this node's pod CIDR
    cluster: Cluster | Refusal | None

    @property
    def kubernetes(self) -> Cluster | None:
        return self.cluster if isinstance(self.cluster, Cluster) else None

    @property
    def env(self) -> SubnetEnv | None:
        return self.here.subnet_env if isinstance(self.here.subnet_env, SubnetEnv) else None

    @property
    def conf(self) -> NetConf | None:
        """The node's own file before the cluster's: it is what runs here. k3s has none in the cluster, but leases."""
        found = self.here.net_conf or (self.kubernetes.net_conf if self.kubernetes else None)
        if found is None and self.kubernetes:
            leases = [each.lease for each in self.kubernetes.nodes if each.lease]
            return NetConf((), leases[0].backend) if leases else None
        return found if isinstance(found, NetConf) else None

    @property
    def networks(self) -> tuple[Network, ...]:
        return self.env.networks if self.env else self.conf.networks if self.conf else ()

    @property
    def k3s(self) -> bool:
        """Flannel is a part of k3s, and no DaemonSet."""
        cluster = self.kubernetes
        embedded = cluster and not cluster.daemon_sets and any("+k3s" in each.kubelet for each in cluster.nodes)
        return self.here.k3s or bool(embedded)
