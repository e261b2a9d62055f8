"""Files without a file system: names, and what they are. How they become a layer, the same bytes each time.

A `Tree` has files and symbolic links, and directories only where they are empty or unusual; those on the way to a file
come by themselves. Everything is root's, nothing is set-uid, only what can be executed differs in its mode, and there
is one time for all: nothing of the machine that builds can get in.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

EPOCH = 1_577_836_800  # 2020: a layer changes only with what is in it. Zero would be a date that some programs refuse


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    executable: bool = False

    @property
    def mode(self) -> int:
        return 0o755 if self.executable else 0o644


@dataclass(frozen=True, slots=True)
class Link:
    target: str


@dataclass(frozen=True, slots=True)
class Folder:
    mode: int = 0o755


Entry = File | Link | Folder
Tree = dict[str, Entry]
"""By name, without a / at its beginning."""


def matches(name: str, patterns: Sequence[str]) -> bool:
    """With a / at its end a pattern stands for all below; without one at its beginning, for a name in any directory."""
    path = PurePosixPath(f"/{name}")
    return any(str(path).startswith(each) if each.endswith("/") else path.match(each) for each in patterns)


def of_tar(archive: tarfile.TarFile, rename: Callable[[str], str] = str) -> Tree:
    """Its files and links."""
    tree: Tree = {}
    for member in archive:
        name = rename(os.path.normpath(member.name))
        if member.issym():
            tree[name] = Link(member.linkname)
        elif content := archive.extractfile(member):
            tree[name] = File(content.read(), bool(member.mode & 0o100))
    return tree


def of_layer(layer: bytes) -> Tree:
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        tree = of_tar(archive)
        folders = {member.name: Folder(member.mode) for member in archive if member.isdir()}
    filled = {above for name in {*tree, *folders} for above in _above(name)}
    return {**{name: folder for name, folder in folders.items() if name not in filled or folder.mode != 0o755}, **tree}


def as_tar(tree: Mapping[str, Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, entry in with_folders(tree):
            info = tarfile.TarInfo(name)
            info.mtime = EPOCH
            match entry:
                case File():
                    info.size, info.mode = len(entry.content), entry.mode
                    archive.addfile(info, io.BytesIO(entry.content))
                case Link():
                    info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
                    archive.addfile(info)
                case Folder():
                    info.type, info.mode = tarfile.DIRTYPE, entry.mode
                    archive.addfile(info)
    return buffer.getvalue()


def as_layer(tree: Mapping[str, Entry]) -> bytes:
    return gzip.compress(as_tar(tree), compresslevel=6, mtime=0)  # 9: one percent less, in six times the time


def write_out(tree: Mapping[str, Entry], root: Path) -> None:
    """Owner and time too, as far as we may set them."""
    for name, entry in with_folders(tree):
        path = root / name
        match entry:
            case File():
                path.write_bytes(entry.content)
                path.chmod(entry.mode)
            case Link():
                path.symlink_to(entry.target)
            case Folder():
                path.mkdir()
                path.chmod(entry.mode)
    for name, _ in reversed(list(with_folders(tree))):  # a directory's last, because what is put into it changes it
        os.utime(root / name, (EPOCH, EPOCH), follow_symlinks=False)


def with_folders(tree: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    """Each directory before what is in it."""
    folders = {above: Folder() for name in tree for above in _above(name)}
    yield from sorted({**folders, **tree}.items(), key=lambda item: item[0].split("/"))


def _above(name: str) -> Iterator[str]:
    return (str(each) for each in PurePosixPath(name).parents if each.name)
