"""What is to be done in the directory of network configurations, and in which order. Pure.

Given are the file that is wished, what a runtime would read there now, and the record of what we did before. Whatever
is ours is told by its digest, so a file that somebody put in place of ours is never taken for it.

- Nothing is done where another HeadCNI has its configuration: a runtime takes one of the two, and the pods of the
  other would go to a daemon that does not know them.
- A foreign file under the very name of ours is set aside in any case, those of other plugins that would win over ours
  only when that is asked for. One that delegates to us on purpose (Multus), or uses our IPAM, stays.
- Ours is there before theirs goes: at no instant a runtime finds none, and one that cannot be moved keeps nobody out.
- A configuration that we wrote under a name that is no longer wished goes, after the new one is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from cni.spec import Refusal
from reconciler.install import place
from reconciler.install.codes import Trouble
from reconciler.install.record import InstallRecord
from reconciler.install.template import TYPE
from reconciler.node import confdir
from reconciler.node.confdir import Conf


@dataclass(frozen=True, slots=True)
class Wish:
    path: str
    digest: str
    state_dir: str
    set_aside: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """A file that a runtime would read."""

    conf: Conf
    digest: str = ""
    state_dirs: tuple[str, ...] = ()  # of the plugins of type headcni in it

    @property
    def path(self) -> str:
        return self.conf.path


@dataclass(frozen=True, slots=True)
class SetAside:
    path: str


@dataclass(frozen=True, slots=True)
class Write:
    path: str
    digest: str
    why: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """It is as wished already; only the record does not say so."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Remove:
    path: str
    digests: tuple[str, ...]  # with another one it is not ours any more, and stays


Step = SetAside | Write | Adopt | Remove


@dataclass(frozen=True, slots=True)
class Decision:
    steps: tuple[Step, ...] = ()  # in this order
    refusals: tuple[Refusal, ...] = ()


def decide(
    wish: Wish, present: Sequence[Present], record: InstallRecord, asides: AbstractSet[str] = frozenset()
) -> Decision:
    """`present`: in the runtime's order. `asides`: paths whose file was set aside, and is there under that name."""
    if second := next(_others_of_us(wish, present, record), None):
        return Decision(refusals=(second,))
    found = [
        *_own(wish, present, record, asides),
        *_rivals(wish, present, record, asides),
        *[Remove(path, digests) for path, digests in record.conflists.items() if path != wish.path],
    ]
    return Decision(
        tuple([each for each in found if not isinstance(each, Refusal)]),
        tuple([each for each in found if isinstance(each, Refusal)]),
    )


def recorded(record: InstallRecord, steps: Sequence[Step]) -> InstallRecord:
    """What must be on the disk before the first of the steps."""
    for step in steps:
        if isinstance(step, SetAside):
            record = record.with_aside([step.path])
        elif isinstance(step, Write | Adopt):
            record = record.with_conflist(step.path, step.digest)
    return record


def _others_of_us(wish: Wish, present: Sequence[Present], record: InstallRecord) -> Iterator[Refusal]:
    for each in present:
        written_by_us = each.digest in record.conflists.get(each.path, ())
        same = each.path == wish.path and set(each.state_dirs) <= {wish.state_dir}
        if each.state_dirs and not written_by_us and not same:
            what = f"{each.path} is a network of HeadCNI with state_dir {', '.join(each.state_dirs)}"
            mine = f"this daemon's would be {wish.path} with state_dir {wish.state_dir}"
            cure = "a node has one HeadCNI: uninstall the other, or remove its file if nobody needs it"
            yield Refusal(Trouble.SECOND_INSTALLATION, f"{what}, and {mine}", cure)


def _rivals(
    wish: Wish, present: Sequence[Present], record: InstallRecord, asides: AbstractSet[str]
) -> Iterator[SetAside | Refusal]:
    """Where it is not asked for, `reconciler.node.lookout` warns of them."""
    directory = str(Path(wish.path).parent)
    for each in present:
        if each.path >= wish.path or each.conf.ours:
            continue
        rival = next(confdir.judge(directory, (each.conf, Conf(wish.path, types=(TYPE,)))))
        if rival.wins and wish.set_aside:
            yield _set_aside(each.path, record, asides)


def _own(
    wish: Wish, present: Sequence[Present], record: InstallRecord, asides: AbstractSet[str]
) -> Iterator[SetAside | Write | Adopt | Refusal]:
    now = next((each.digest for each in present if each.path == wish.path), None)
    ours = record.conflists.get(wish.path, ())
    if now == wish.digest:
        yield from [Adopt(wish.path, wish.digest)] if now not in ours else []
    elif now is None:
        yield Write(wish.path, wish.digest, "it was missing" if ours else "the node can serve pods")
    elif now in ours:
        yield Write(wish.path, wish.digest, "the template has changed")
    elif ours and (wish.path in asides or wish.path not in record.set_aside):
        yield Write(wish.path, wish.digest, "it was changed")
    else:
        aside = _set_aside(wish.path, record, asides)
        yield aside
        if isinstance(aside, SetAside):
            yield Write(wish.path, wish.digest, "the node can serve pods")


def _set_aside(path: str, record: InstallRecord, asides: AbstractSet[str]) -> SetAside | Refusal:
    """One that we set aside before gives way to what its owner wrote since."""
    if path not in asides or path in record.set_aside:
        return SetAside(path)
    what = f"{path} is to be set aside, but {place.aside_of(Path(path))} is there already, and not by this daemon"
    return Refusal(Trouble.SET_ASIDE, what, "remove the one of the two that is not wanted")
