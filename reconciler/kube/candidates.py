"""Where the API server may be reached, in the order of trust in it. Pure; `surroundings.py` looks at the node.

The network that HeadCNI makes must not be needed to find it. So what the configuration names comes first, then the
way that the kubelet of this node uses, which works before any pod does; a Service's address, which needs kube-proxy,
comes last and is never waited for.

The kubelet's way is first taken with our own token, where there is one: the kubelet's rights are another's, and do
not reach as far (it may not remove taints). Without a token of our own, its credentials do for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.config import Config
from reconciler.settings import Network

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KUBELETS = (
    Path("/etc/kubernetes/kubelet.conf"),
    Path("/var/lib/rancher/k3s/agent/kubelet.kubeconfig"),
    Path("/var/lib/rancher/rke2/agent/kubelet.kubeconfig"),
    Path("/var/snap/microk8s/current/credentials/kubelet.config"),
)


class Origin(StrEnum):
    URL = "kube.url"
    KUBECONFIG = "kube.kubeconfig"
    KUBELET = "the kubelet's kubeconfig"
    ENVIRONMENT = "KUBERNETES_SERVICE_HOST"
    IN_CLUSTER = "the first address of network.serviceCIDR"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Server, authority and credentials come from the kubeconfig; what is named beside it counts instead."""

    origin: Origin
    kubeconfig: Path | None = None
    url: str = ""
    ca_file: Path | None = None
    token_file: Path | None = None

    def __str__(self) -> str:
        what = f"{self.origin} {self.url or self.kubeconfig}"
        return f"{what} with the token of {self.token_file}" if self.token_file and self.kubeconfig else what


@dataclass(frozen=True, slots=True)
class Surroundings:
    kubelets: tuple[Path, ...] = ()  # kubeconfigs of a kubelet that are there
    service_account: bool = False
    service_host: str = ""
    service_port: str = ""


def candidates(config: Config, seen: Surroundings) -> tuple[Candidate, ...]:
    if config.kube_mode == "off":
        return ()
    return tuple(dict.fromkeys([*_configured(config, seen), *_kubelets(config, seen), *_services(config, seen)]))


def _token(config: Config, seen: Surroundings) -> Path | None:
    return config.kube_token_file or (SERVICE_ACCOUNT / "token" if seen.service_account else None)


def _authority(config: Config, seen: Surroundings) -> Path | None:
    return config.kube_ca_file or (SERVICE_ACCOUNT / "ca.crt" if seen.service_account else None)


def _configured(config: Config, seen: Surroundings) -> Iterator[Candidate]:
    origin = Origin.URL if config.kube_url else Origin.KUBECONFIG
    if config.kubeconfig is not None:
        yield Candidate(origin, config.kubeconfig, config.kube_url, config.kube_ca_file, config.kube_token_file)
    elif config.kube_url:
        yield Candidate(origin, None, config.kube_url, _authority(config, seen), _token(config, seen))


def _kubelets(config: Config, seen: Surroundings) -> Iterator[Candidate]:
    for kubelet in seen.kubelets:
        if token := _token(config, seen):
            yield Candidate(Origin.KUBELET, kubelet, token_file=token)
        yield Candidate(Origin.KUBELET, kubelet)


def _services(config: Config, seen: Surroundings) -> Iterator[Candidate]:
    """Only with a token: no other credentials come with these addresses."""
    if (token := _token(config, seen)) is None:
        return
    if seen.service_host:
        url = _url(seen.service_host, seen.service_port or "443")
        yield Candidate(Origin.ENVIRONMENT, None, url, _authority(config, seen), token)
    if seen.service_account:
        for cidr in config.service_cidrs:
            if str(address := cidr.network_address + 1) != seen.service_host:
                yield Candidate(Origin.IN_CLUSTER, None, _url(str(address), "443"), _authority(config, seen), token)


def _url(host: str, port: str) -> str:
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def is_service(url: str, services: Sequence[Network]) -> bool:
    try:
        address = ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return any(address in cidr for cidr in services)


def kubeconfig_argument(command: Sequence[str]) -> Path | None:
    """Of a process, if it is a kubelet that was told its kubeconfig."""
    if "kubelet" not in [Path(word).name for word in command[:2]]:  # `hyperkube kubelet …` is one, too
        return None
    for word, following in zip(command, [*command[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == "--kubeconfig":
            given = value if equals else following
            return Path(given) if given.startswith("/") else None
    return None
