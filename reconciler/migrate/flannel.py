"""What Flannel left on this node: files, interfaces, routes, chains. Read within bounds, and nothing is changed.

Files are the host's, so in a container they are below `node.root`; interfaces, routes and rules are those of the
namespace that this runs in, which must be the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.migrate import formats
from reconciler.migrate.formats import NetConf, SubnetEnv
from reconciler.migrate.links import Link
from reconciler.node import confdir, files
from reconciler.node.confdir import Conf
from reconciler.node.dump import Route
from reconciler.node.listings import Chain
from reconciler.parsers import IpAddress
from reconciler.plainyaml import Malformed

SUBNET_ENV = "/run/flannel/subnet.env"
K3S_NET_CONF = "/var/lib/rancher/k3s/agent/etc/flannel/net-conf.json"
NET_CONFS = ("/etc/kube-flannel/net-conf.json", K3S_NET_CONF)
ADDRESSES = "/var/lib/cni/networks"
NETWORK = "cbr0"  # the name in Flannel's own manifest, and in k3s
DATA = "/var/lib/cni/flannel"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """`None`: there is none. A refusal: there is one, and it cannot be used."""

    subnet_env: SubnetEnv | Refusal | None = None
    net_conf: NetConf | Refusal | None = None
    net_conf_from: str = ""
    confs: tuple[Conf, ...] = ()  # network configurations whose plugin is flannel
    reserved: tuple[IpAddress, ...] = ()  # by its IPAM; those of pods that were not deleted properly stay
    links: tuple[Link, ...] = ()
    routes: tuple[tuple[Route, str], ...] = ()  # to pods of other nodes, each with its interface
    chains: tuple[Chain, ...] = ()
    blind: tuple[str, ...] = ()  # what could not be looked at
    paths: tuple[str, ...] = ()  # of what is there, to be removed afterwards

    @property
    def in_use(self) -> bool:
        return bool(self.subnet_env or self.net_conf or self.confs)

    @property
    def anything(self) -> bool:
        return self.in_use or bool(self.links or self.chains)

    @property
    def k3s(self) -> bool:
        """By its files."""
        return self.net_conf_from.endswith(K3S_NET_CONF) or any("/rancher/k3s/" in each.path for each in self.confs)


def read_files(root: Path, conf_dir: str, subnet_env: str | None = None, net_conf: str | None = None) -> Found:
    """The last two: named by the operator, so as they are, not below `root`; then one that is missing is refused."""
    seen_env = _read(root, (SUBNET_ENV,), subnet_env, formats.subnet_env)
    seen_conf = _read(root, NET_CONFS, net_conf, formats.net_conf)
    confs = [each for found in confdir.look(root, conf_dir).values() for each in found if "flannel" in each.types]
    folder = f"{ADDRESSES}/{next((each.network for each in confs if each.network), NETWORK)}"
    left = (str(Path(SUBNET_ENV).parent), *[each.path for each in confs], folder, DATA)
    return Found(
        subnet_env=seen_env[1],
        net_conf=seen_conf[1],
        net_conf_from=seen_conf[0],
        confs=tuple(confs),
        reserved=formats.reserved(files.names_in(root, folder)),
        paths=tuple([each for each in left if files.below(root, each).exists()]),
    )


def _read(
    root: Path, usual: Iterable[str], named: str | None, parse: Callable[[bytes], T | Malformed]
) -> tuple[str, T | Refusal | None]:
    """And where it was found."""
    base, paths = (Path("/"), [str(Path(named).absolute())]) if named else (root, list(usual))
    for path, content in files.read_all(base, paths).items():
        if content is not None:
            where = str(files.below(base, path))
            return where, _parsed(where, content, parse)
    if named:
        return named, Refusal(Trouble.SOURCE_UNREADABLE, f"{named} does not exist", "name a file that is there")
    return "", None


def _parsed(where: str, content: bytes | Refusal, parse: Callable[[bytes], T | Malformed]) -> T | Refusal:
    if isinstance(content, Refusal):
        return content
    found = parse(content)
    return refused(where, found) if isinstance(found, Malformed) else found


def refused(where: str, found: Malformed) -> Refusal:
    cure = "see that Flannel runs here and is well (its log), then look again: what it has not settled cannot be kept"
    return Refusal(Trouble.SOURCE_INVALID, f"{where} {found.what}", cure)
