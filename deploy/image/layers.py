"""The three layers: Debian and Python, the Python packages, ours. An upgrade of HeadCNI moves the last one only.

The first two are kept in the cache, under a digest of the packages and of this program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.image import cache, debian, own, wheels
from deploy.image.contents import HERE, contents, requirements
from deploy.image.interpreter import unpacked
from deploy.image.tree import File, Tree, as_layer, of_layer


@dataclass(frozen=True, slots=True)
class Layers:
    """Each a compressed archive."""

    base: bytes
    dependencies: bytes
    ours: bytes


def make(arch: str, loopback: Path | None = None, fresh: bool = False) -> Layers:
    wanted = contents()
    packages = debian.download(wanted.packages, arch, fresh)
    parts = wheels.download(requirements(), wanted.python, arch, fresh)

    def with_code(base: Tree, tree: Tree) -> Tree:
        with unpacked(base, wanted.python, arch) as python:
            return tree | python.compile(tree)

    def make_base() -> Tree:
        files = debian.unpacked(packages, wanted)
        tree = files | debian.generated(files, wanted) | {"var/lib/dpkg/status": debian.described(packages)}
        return with_code(tree, tree)

    base = _kept("base", (arch, *_names(packages)), make_base)
    system = of_layer(base)
    dependencies = _kept(
        "dependencies", (base, *_names(parts)), lambda: with_code(system, wheels.unpacked(parts, wanted))
    )
    ours = with_code(system, own.sources()) | {
        "opt/headcni/plugin/headcni": File(own.plugin(wanted.python, arch, fresh), executable=True),
        "opt/headcni/plugin/loopback": File(
            loopback.read_bytes() if loopback else own.loopback(wanted.loopback, arch), executable=True
        ),
    }
    return Layers(base, dependencies, as_layer(ours))


def _names(files: Sequence[Path]) -> list[str]:
    return [each.name for each in files]


def _kept(name: str, comes_from: Sequence[str | bytes], make: Callable[[], Tree]) -> bytes:
    program = [each.read_bytes() for each in sorted(HERE.iterdir()) if each.suffix in (".py", ".toml")]

    def write(into: Path) -> None:
        into.mkdir()
        (into / "layer.tar.gz").write_bytes(as_layer(make()))

    made = cache.folder(f"{name}-{cache.digest(*program, *comes_from)[:16]}", write)
    return (made / "layer.tar.gz").read_bytes()
