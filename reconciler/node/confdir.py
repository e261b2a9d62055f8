"""Which network the container runtime takes: the first file by name in its directory, whoever wrote it.

So another plugin's file decides where pods get their network, if it sorts before ours, and waits to do so if it comes
after: it wins on the day ours is away. A file that is broken hides those behind it, with some runtimes all.

Where the runtime looks is told by `cni.confDir`. Its default may be a guess, so then the directories of distributions
that have their own are looked at as well; one that was named is the only one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.node import files
from reconciler.settings import BY_KEY

DIRECTORIES = (
    BY_KEY["cni.confDir"].default,
    "/var/lib/rancher/k3s/agent/etc/cni/net.d",
    "/var/snap/microk8s/current/args/cni-network",
)
ENDINGS = (".conf", ".conflist", ".json")
_OURS = ("headcni", "headcni-ipam")
_ON_PURPOSE = ("multus", "multus-shim")  # it asks the others


@dataclass(frozen=True, slots=True)
class Conf:
    path: str
    network: str = ""
    types: tuple[str, ...] = ()  # of plugins, and of their IPAM
    broken: str = ""

    @property
    def ours(self) -> bool:
        return any(each in _OURS for each in self.types)


def look(root: Path = Path("/"), conf_dir: str = DIRECTORIES[0]) -> dict[str, tuple[Conf, ...]]:
    """By directory, those that exist and hold anything; in the runtime's order."""
    found = {}
    for directory in DIRECTORIES if conf_dir == DIRECTORIES[0] else (conf_dir,):
        names = [name for name in files.names_in(root, directory) if name.endswith(ENDINGS)]
        paths = [f"{directory}/{name}" for name in names]
        confs = [read(path, content) for path, content in files.read_all(root, paths).items() if content is not None]
        if confs:
            found[directory] = tuple(confs)
    return found


def read(path: str, content: bytes | Refusal) -> Conf:
    """Pure. `content`: as `reconciler.node.files` has it."""
    if isinstance(content, Refusal):
        return Conf(path, broken=content.msg)
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return Conf(path, broken=f"{path} is not JSON: {error}")
    types = [each for plugin in plugins(body) for each in _types(plugin)]
    if not types:
        return Conf(path, broken=f"{path} names no plugin")
    return Conf(path, str(body.get("name", "")), tuple(types))


def plugins(body: Any) -> list[Any]:
    """Of a list of plugins, or of a single one."""
    found = body.get("plugins", [body]) if isinstance(body, dict) else []
    return found if isinstance(found, list) else []


def _types(plugin: Any) -> list[str]:
    entries = [plugin, plugin.get("ipam")] if isinstance(plugin, dict) else []
    return [each["type"] for each in entries if isinstance(each, dict) and isinstance(each.get("type"), str)]


@dataclass(frozen=True, slots=True)
class Rival:
    refusal: Refusal
    wins: bool  # pods do not get their network from us


def judge(directory: str, confs: Sequence[Conf]) -> Iterator[Rival]:
    """Pure. `confs` as `look` has them."""
    first = next((number for number, conf in enumerate(confs) if conf.ours), len(confs))
    if first == len(confs):
        yield _rival(confs[0], f"{directory} has no network of HeadCNI", True)
        return
    for conf in confs[:first]:
        yield _rival(conf, f"it is sorted before {Path(confs[first].path).name}", True)
    for conf in confs[first + 1 :]:
        if not conf.ours:
            yield _rival(conf, f"it is left behind, and wins when {Path(confs[first].path).name} is away", False)


def _rival(conf: Conf, why: str, wins: bool) -> Rival:
    cure = f"if it is no longer wanted: mv {conf.path} {conf.path}.disabled"
    if conf.broken:
        return Rival(Refusal(Trouble.OTHER_CNI, f"{conf.broken}; {why}", cure), wins)
    if wins and any(each in _ON_PURPOSE for each in conf.types):
        what = f"{conf.path} is the network {conf.network!r} of Multus; {why}"
        cure = "see that its clusterNetwork is the network of HeadCNI; then this is as it should be"
        return Rival(Refusal(Trouble.OTHER_CNI, what, cure), False)
    what = f"{conf.path} is the network {conf.network!r} of {', '.join(conf.types)}; {why}"
    return Rival(Refusal(Trouble.OTHER_CNI, what, cure), wins)
