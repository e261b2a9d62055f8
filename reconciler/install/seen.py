"""What a runtime would read in a directory of network configurations, with what tells ours from others'."""

from __future__ import annotations

from pathlib import Path

import orjson

from cni.spec import Refusal
from reconciler.install import place, template
from reconciler.install.conflist import Present
from reconciler.node import confdir, files

_ROOT = Path("/")


def look(directory: Path) -> tuple[tuple[Present, ...], frozenset[str]]:
    """The files, in the runtime's order, and the names whose file is there set aside."""
    names = [name for name in files.names_in(_ROOT, str(directory)) if _is_text(name)]
    paths = [f"{directory}/{name}" for name in names if name.endswith(confdir.ENDINGS)]
    contents = files.read_all(_ROOT, paths)
    present = [_present(path, content) for path, content in contents.items() if content is not None]
    asides = [f"{directory}/{name.removesuffix(place.ASIDE)}" for name in names if name.endswith(place.ASIDE)]
    return tuple(present), frozenset(asides)


def _is_text(name: str) -> bool:
    """No record and no status could hold another one, and no plugin's file is called so."""
    return not any("\ud800" <= each <= "\udfff" for each in name)


def _present(path: str, content: bytes | Refusal) -> Present:
    conf = confdir.read(path, content)
    if isinstance(content, Refusal):
        return Present(conf)
    ours = () if conf.broken else template.ours(confdir.plugins(orjson.loads(content)))
    return Present(conf, place.digest(content), tuple([template.state_dir_of(each) for each in ours]))
