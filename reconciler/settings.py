"""Every setting of the daemon, once: where it may be given, what it may be, what it is otherwise, and why.

From this table come the command line flags, the environment variables, the keys of the configuration file, the
output of `headcni config` and `docs/configuration.md`. What each may be is in `reconciler/parsers.py`;
`reconciler/config.py` decides which source wins, and `reconciler/contradictions.py` what must hold between settings.

Keys of Headscale are no settings: they come from a file that a setting names, or from a variable
(`reconciler/mesh/secrets.py`), so that no value in this table is a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.parsers import IpAddress as IpAddress
from reconciler.parsers import Network as Network
from reconciler.parsers import (
    Parse,
    any_networks,
    api_url,
    between,
    boolean,
    choice,
    conflist_name,
    control_url,
    file_path,
    host_name,
    key_file,
    local_address,
    networks,
    node_name,
    optional_file,
    path,
    prefix_length,
    routes,
    tags,
    url_path,
)
from reconciler.parsers import StaticRoute as StaticRoute
from reconciler.parsers import real_path as real_path


@dataclass(frozen=True, slots=True)
class Setting:
    key: str  # in the file, dotted
    field: str  # of Config
    parse: Parse
    default: Any  # as it would be written
    help: str
    flag: str = ""
    env: str = ""
    live: bool = False  # SIGHUP is enough; everything else is part of what a start builds
    file_before_env: bool = False

    @property
    def repeatable(self) -> bool:
        return self.parse in (networks, any_networks, routes, tags)

    @property
    def switch(self) -> bool:
        return self.parse is boolean

    @property
    def form(self) -> str:
        """What stands for the value in a help text."""
        files = dict.fromkeys((file_path, optional_file, key_file), "FILE")
        forms: dict[Parse, str] = {
            networks: "CIDR", routes: "DST=VIA", path: "DIR", control_url: "URL", api_url: "URL", **files,
        }  # fmt: skip
        return forms.get(self.parse) or self.key.rpartition(".")[2].upper()


SETTINGS = (
    Setting(
        "stateDir", "state_dir", path, "/var/lib/headcni",
        "Directory of intents, records and history. The network configuration's `state_dir` must lead to the same.",
        flag="--state-dir", env="HEADCNI_STATE_DIR",
    ),
    Setting(
        "network.podCIDR.nodeLocal", "pod_cidrs", networks, [],
        "This node's own pod CIDR, one per address family. Without it the daemon looks in the node's files, asks the "
        "Kubernetes API, or guesses, and `headcni podcidr` shows what it found. Here the file wins over the "
        "environment: a file is written for this node, NODE_POD_CIDR often for all of them.",
        flag="--pod-cidr", env="NODE_POD_CIDR", file_before_env=True,
    ),
    Setting(
        "network.podCIDR.base", "cluster_cidrs", networks, ["10.244.0.0/16"],
        "The pods of all nodes, one CIDR per address family. What goes there keeps the pod's source address. Where it "
        "is not set, files of kubeadm, k3s, RKE2 or microk8s on this node come before the default.",
        flag="--cluster-cidr", env="HEADCNI_CLUSTER_CIDR",
    ),
    Setting(
        "network.podCIDR.perNode", "node_prefix", prefix_length, "/24",
        "IPv4 prefix length of one node's share of the base, where a node must guess its own pod CIDR by its name. An "
        "IPv6 share is a /64.",
        env="HEADCNI_POD_CIDR_PER_NODE",
    ),
    Setting(
        "network.serviceCIDR", "service_cidrs", networks, ["10.96.0.0/16"],
        "Addresses of Services, one CIDR per address family. A pod CIDR or subnet that overlaps them is refused. Where "
        "it is not set, the same files as for the base come before the default.",
        flag="--service-cidr", env="HEADCNI_SERVICE_CIDR",
    ),
    Setting(
        "network.masquerade", "masquerade", boolean, True,
        "Rewrite the source of what pods send out of the cluster to the node's address. Without it, routers "
        "outside must know the pod CIDRs.",
        flag="--masquerade", env="HEADCNI_MASQUERADE", live=True,
    ),
    Setting(
        "network.staticRoutes", "static_routes", routes, [],
        "Pod CIDRs of other nodes and the next hop to each, where no mesh carries them.",
        flag="--static-route", env="HEADCNI_STATIC_ROUTES", live=True,
    ),
    Setting(
        "network.mtu", "mtu", between(576, 65535, or_zero=True), 0,
        "MTU of pod interfaces in bytes, 0 for automatic. Pods that run keep the one they have.",
        flag="--mtu", env="HEADCNI_MTU", live=True,
    ),
    Setting(
        "mesh.mode", "mesh_mode", choice("none", "tailscale"), "none",
        "Who carries packets between nodes: none (the network itself, or static routes), or tailscale.",
        flag="--mesh", env="HEADCNI_MESH",
    ),
    Setting(
        "mesh.approval", "mesh_approval", choice("auto", "approver", "key"), "auto",
        "Who approves this node's routes: auto (autoApprovers of Headscale's policy, so that no node has a key), "
        "approver (headcni approver, one for the cluster), key (this daemon, with a key of Headscale's API).",
        flag="--mesh-approval", env="HEADCNI_MESH_APPROVAL",
    ),
    Setting(
        "mesh.advertise", "mesh_advertise", choice("node", "pod"), "node",
        "What is announced: the node's pod CIDRs, or pod: each pod's own address instead. That costs: each "
        "/32 or /128 makes Headscale compute the maps of all nodes anew, and each must be approved.",
        env="HEADCNI_MESH_ADVERTISE",
    ),
    Setting(
        "mesh.failClosed", "fail_closed", boolean, True,
        "Pod packets to other nodes travel in the mesh or not at all. Without it they leave in clear, by the "
        "node's default route, while the mesh is down: only for clusters whose network routes pods itself.",
        flag="--fail-closed", env="HEADCNI_FAIL_CLOSED",
    ),
    Setting(
        "mesh.guard", "guard", any_networks, [],
        "Further CIDRs that must not be led into the mesh, whatever others announce, such as the node's LAN. "
        "The node's own pod CIDRs and the Services never are.",
        env="HEADCNI_MESH_GUARD",
    ),
    Setting(
        "mesh.probePort", "probe_port", between(0, 65535), 9472,
        "UDP port by which nodes ask each other, through the mesh, what arrives; the same on all. 0 for none: "
        "then nothing proves that packets are delivered.",
        env="HEADCNI_MESH_PROBE_PORT",
    ),
    Setting(
        "mesh.repairPreferences", "repair_preferences", boolean, True,
        "Set tailscaled's preferences that pods need again when somebody turned them back. Without it that is "
        "only reported.",
        env="HEADCNI_MESH_REPAIR_PREFERENCES", live=True,
    ),
    Setting(
        "headscale.url", "headscale_url", control_url, "",
        "Headscale's server_url: scheme, host and port. A node that is joined to another server is left there, "
        "and that is reported. Without it the daemon joins no node, and takes each as it is joined.",
        flag="--headscale-url", env="HEADCNI_HEADSCALE_URL",
    ),
    Setting(
        "headscale.authKeyFile", "auth_key_file", key_file, "",
        "File with the key by which a node joins that is not joined yet. Read when it is needed.",
        flag="--auth-key-file", env="HEADCNI_AUTH_KEY_FILE",
    ),
    Setting(
        "headscale.apiKeyFile", "api_key_file", key_file, "",
        "File with a key of Headscale's API, for mesh.approval key or the approver. Such a key may do everything.",
        flag="--api-key-file", env="HEADCNI_API_KEY_FILE",
    ),
    Setting(
        "headscale.caFile", "headscale_ca_file", optional_file, "",
        "PEM file of the authority that signed the certificate of Headscale's API, where the system does not know it.",
        flag="--headscale-ca-file", env="HEADCNI_HEADSCALE_CA_FILE",
    ),
    Setting(
        "tailscale.socket", "tailscale_socket", file_path, "/var/run/tailscale/tailscaled.sock",
        "Where tailscaled on this node listens.",
        flag="--tailscale-socket", env="HEADCNI_TAILSCALE_SOCKET",
    ),
    Setting(
        "tailscale.hostname", "tailscale_hostname", host_name, "",
        "Name of this node in the tailnet. Without it, tailscaled takes the host's.",
        env="HEADCNI_TAILSCALE_HOSTNAME",
    ),
    Setting(
        "tailscale.tags", "tailscale_tags", tags, [],
        "Tags to join with, like tag:k8s. Headscale's policy must let this node's user own them.",
        env="HEADCNI_TAILSCALE_TAGS",
    ),
    Setting(
        "tailscale.acceptDns", "accept_dns", boolean, False,
        "Let tailscaled write the node's resolv.conf. Pods can use MagicDNS without it.",
        env="HEADCNI_TAILSCALE_ACCEPT_DNS", live=True,
    ),
    Setting(
        "node.name", "node_name", node_name, "",
        "This node's name in Kubernetes. Without it, the host's. Files and a guessed pod CIDR go by it.",
        flag="--node-name", env="NODE_NAME",
    ),
    Setting(
        "node.root", "node_root", path, "/",
        "Where the host's files are, of kubelet, kubeadm or k3s: in a container, the directory they are mounted below.",
        env="HEADCNI_HOST_ROOT",
    ),
    Setting(
        "kube.mode", "kube_mode", choice("auto", "off"), "auto",
        "Whether to look for the Kubernetes API: auto, or off. Pods get their network without it.",
        flag="--kube", env="HEADCNI_KUBE",
    ),
    Setting(
        "kube.url", "kube_url", api_url, "",
        "The API server: scheme, host and port. It is tried first; then the way of this node's kubelet; last what "
        "a pod is told, as that is a Service's address and needs kube-proxy.",
        flag="--kube-url", env="HEADCNI_KUBE_URL",
    ),
    Setting(
        "kube.kubeconfig", "kubeconfig", optional_file, "",
        "Kubeconfig with server and credentials; with kube.url as well, that server counts.",
        flag="--kubeconfig-file", env="HEADCNI_KUBECONFIG",
    ),
    Setting(
        "kube.caFile", "kube_ca_file", optional_file, "",
        "PEM file of the API server's authority. Without it, the kubeconfig's, or that of the pod's service account.",
        env="HEADCNI_KUBE_CA_FILE",
    ),
    Setting(
        "kube.tokenFile", "kube_token_file", key_file, "",
        "File with a token for the API server, read at each call. Without it, the credentials of the kubeconfig, or "
        "of the pod's service account.",
        env="HEADCNI_KUBE_TOKEN_FILE",
    ),
    Setting(
        "cni.binDir", "cni_bin_dir", path, "/opt/cni/bin",
        "Where the container runtime looks for plugins: `headcni install` writes them there.",
        flag="--bin-dir", env="HEADCNI_CNI_BIN_DIR",
    ),
    Setting(
        "cni.confDir", "cni_conf_dir", path, "/etc/cni/net.d",
        "Where the container runtime looks for network configurations.",
        flag="--conf-dir", env="HEADCNI_CNI_CONF_DIR",
    ),
    Setting(
        "cni.confFile", "cni_conf_file", conflist_name, "10-headcni.conflist",
        "Name of HeadCNI's network configuration there. A runtime takes the first one by name.",
        env="HEADCNI_CNI_CONF_FILE",
    ),
    Setting(
        "cni.template", "cni_template", optional_file, "",
        "File that becomes HeadCNI's network configuration as soon as the daemon is ready for the first time, and is "
        "followed from then on. Without it the daemon writes none, and leaves the one that is there alone.",
        flag="--conf-template", env="HEADCNI_CNI_TEMPLATE",
    ),
    Setting(
        "cni.setAside", "cni_set_aside", boolean, False,
        "Rename network configurations of other plugins that would win over HeadCNI's to NAME.before-headcni, until "
        "it is uninstalled. Without it that is only reported.",
        flag="--set-aside", env="HEADCNI_CNI_SET_ASIDE",
    ),
    Setting(
        "metrics.address", "metrics_address", local_address, "127.0.0.1",
        "Where metrics, /healthz and /readyz are served. Loopback, because they name pods and addresses.",
        flag="--metrics-address", env="HEADCNI_METRICS_ADDRESS",
    ),
    Setting(
        "metrics.port", "metrics_port", between(0, 65535), 8080,
        "TCP port of the metrics, 0 for none.",
        flag="--metrics-port", env="HEADCNI_METRICS_PORT",
    ),
    Setting(
        "metrics.path", "metrics_path", url_path, "/metrics",
        "Path of the metrics, for a scraper that expects another one.",
        flag="--metrics-path", env="HEADCNI_METRICS_PATH",
    ),
    Setting(
        "logLevel", "log_level", choice("info", "debug", "warning", "error"), "info",
        "Least severe event that is logged: debug, info, warning or error.",
        flag="--log-level", env="HEADCNI_LOG_LEVEL", live=True,
    ),
    Setting(
        "history.maxRecords", "history_max_records", between(100, 1_000_000), 10_000,
        "Closed attachments that are kept, about 2 KiB each. Released addresses cool down by them, too.",
        env="HEADCNI_HISTORY_MAX_RECORDS", live=True,
    ),
    Setting(
        "history.maxDays", "history_max_days", between(1, 3650), 30,
        "Days that a closed attachment is kept.",
        env="HEADCNI_HISTORY_MAX_DAYS", live=True,
    ),
)  # fmt: skip

BY_KEY: Mapping[str, Setting] = {setting.key: setting for setting in SETTINGS}


def as_text(value: Any) -> str:
    """As it could be written in a flag or variable."""
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
