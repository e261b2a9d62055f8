"""Everything that can be wrong with the node's configuration and the Kubernetes API, by number, with its remedy.

They continue the numbers of `reconciler.mesh.codes` and never change their meaning once released; `docs/errors.md` is
printed from all of them.
"""

from __future__ import annotations

from enum import IntEnum


class Trouble(IntEnum):
    SOURCE_UNREADABLE = 160
    SOURCE_INVALID = 161
    SOURCES_DISAGREE = 162
    CIDR_GUESSED = 163
    CIDR_CLASH = 164
    CIDR_CHANGED = 165
    OVERLAP = 166
    API_UNREACHABLE = 170
    API_NAME = 171
    API_TLS_AUTHORITY = 172
    API_TLS_NAME = 173
    API_TLS_TIME = 174
    API_KUBECONFIG = 175
    API_CREDENTIALS = 176
    API_FORBIDDEN = 177
    API_ANSWER = 178
    API_SERVICE_ADDRESS = 179
    NODE_UNKNOWN = 180
    CONFIGMAP_KEY = 181
    API_PACKAGE = 182
    OTHER_CNI = 190
    FIREWALL = 191
    KUBE_PROXY = 192


REMEDIES: dict[Trouble, tuple[str, str]] = {
    Trouble.SOURCE_UNREADABLE: (
        "a file that may say the pod CIDR cannot be read",
        "the message names it and why; until then the next source is tried",
    ),
    Trouble.SOURCE_INVALID: (
        "a source says something that cannot be a pod CIDR, cluster CIDR or CIDR of Services",
        "correct the value at the place that the message names; until then the next source is tried",
    ),
    Trouble.SOURCES_DISAGREE: (
        "two sources give different CIDRs",
        "correct the one that is wrong; the message says which one is used. `headcni podcidr` shows them all",
    ),
    Trouble.CIDR_GUESSED: (
        "nobody says what this node's pod CIDR is, so it is a share of the cluster CIDR, by the node's name",
        "set network.podCIDR.nodeLocal (--pod-cidr), or let the daemon reach the API; another node may use the same",
    ),
    Trouble.CIDR_CLASH: (
        "this node's pod CIDR overlaps that of another node",
        "give one of them another with network.podCIDR.nodeLocal; pods that run keep their addresses",
    ),
    Trouble.CIDR_CHANGED: (
        "this node's pod CIDR is another one than before",
        "nothing need be done: pods that run keep their addresses, new ones get one of the new CIDR",
    ),
    Trouble.OVERLAP: (
        "a CIDR of pods, Services or nodes overlaps another one, a route, or an interface of this node",
        "change one of both; the message says what becomes unreachable, and for whom",
    ),
    Trouble.API_UNREACHABLE: (
        "the API server cannot be reached",
        "see that kube-apiserver runs, and that the way to it is open; pods get their network without it",
    ),
    Trouble.API_NAME: (
        "the API server's name cannot be resolved",
        "correct the name in the kubeconfig, or the node's /etc/resolv.conf; an address does without",
    ),
    Trouble.API_TLS_AUTHORITY: (
        "the API server's certificate was signed by an authority that is not trusted",
        "put the cluster's authority into the kubeconfig; the message names the one found and the one expected",
    ),
    Trouble.API_TLS_NAME: (
        "the API server's certificate does not hold the name or address that is dialled",
        "dial one that it holds, or write the tls-server-name that the message gives into the kubeconfig",
    ),
    Trouble.API_TLS_TIME: (
        "a certificate has expired or is not valid yet, or the node's clock is wrong",
        "compare both times in the message: set the clock, or renew the certificate",
    ),
    Trouble.API_KUBECONFIG: (
        "the kubeconfig, or something that it needs, cannot be used",
        "the message names file and key; a directory is a ConfigMap or Secret mounted without subPath",
    ),
    Trouble.API_CREDENTIALS: (
        "the API server does not accept the credentials",
        "renew the token or the certificate that the message names",
    ),
    Trouble.API_FORBIDDEN: (
        "the account has no permission",
        "add the rule that the message prints to a ClusterRole that is bound to the account",
    ),
    Trouble.API_ANSWER: (
        "the API server gave an answer that cannot be used, or refused a request",
        "the message has its words; see that what is dialled is an API server, and its log",
    ),
    Trouble.API_SERVICE_ADDRESS: (
        "the address of the Service `kubernetes` does not answer",
        "see that kube-proxy runs; or name the API server itself with kube.url or kube.kubeconfig",
    ),
    Trouble.NODE_UNKNOWN: (
        "this node is not known by the name that it has here",
        "set node.name (NODE_NAME) to the name that `kubectl get nodes` shows",
    ),
    Trouble.CONFIGMAP_KEY: (
        "a ConfigMap, or a directory made from one, does not have the expected key",
        "the message names the key and those that are there",
    ),
    Trouble.API_PACKAGE: (
        "the Python package `kubernetes`, or one that it needs, is not installed",
        "pip install 'headcni[kube]' where the daemon runs; or set kube.mode to off",
    ),
    Trouble.OTHER_CNI: (
        "the configuration of another network plugin is there, and may be the one that is used",
        "remove the file that the message names, if that plugin is gone: the runtime takes the first by name",
    ),
    Trouble.FIREWALL: (
        "a firewall of this node drops packets of pods",
        "let it pass what comes from and goes to the pod CIDRs; the message has the commands",
    ),
    Trouble.KUBE_PROXY: (
        "the addresses of Services do not work on this node, or not for its pods",
        "see that kube-proxy, or what replaces it, runs, and its log; pods' own addresses work without it",
    ),
}
