"""The nodes of the cluster from a YAML file, for where no Kubernetes says which node has which pod CIDR.

    nodes:
      - name: worker-1
        podCIDRs: [10.244.1.0/24]
        tailnet: {address: 100.64.0.3}     # or nodeKey, or id (of Headscale); never a name

All that is wrong is told at once. The file is read again when it changes. A new version that is broken, or gone, leaves
the old one in use, and says so for as long as it lasts: an editor's slip must not stop approvals.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml

from cni.spec import Code, Refusal
from reconciler.mesh.approve import Identity, Mark, Member
from reconciler.parsers import Wrong, networks

_NODE_KEY = re.compile(r"nodekey:[0-9a-f]{64}")
_KEYS = ("name", "podCIDRs", "tailnet")
_EXAMPLE = "{name: worker-1, podCIDRs: [10.244.1.0/24], tailnet: {address: 100.64.0.3}}"


@dataclass(frozen=True, slots=True)
class Reading:
    members: tuple[Member, ...]
    problem: Refusal | None = None  # why these are those of an older version


class MembersFile:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, ...] | None = None
        self._last: Reading | None = None

    def read(self) -> Reading | Refusal:
        """A refusal only while no version was ever good."""
        seen = self._stamp()
        if self._last is not None and seen == self._seen and seen is not None:
            return self._last
        found = read_members(self._file)
        if isinstance(found, Refusal):
            if self._last is None:
                return found
            kept = Refusal(found.code, f"{found.msg}; the version before stays in use", found.details)
            self._last = Reading(self._last.members, kept)
        else:
            self._last = Reading(found)
        self._seen = seen
        return self._last

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_members(file: Path) -> tuple[Member, ...] | Refusal:
    try:
        body = yaml.safe_load(file.read_bytes())
    except OSError as error:
        return _refused(f"the node list {file} cannot be read: {error.strerror}", "name a file with `nodes: [...]`")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return _refused(f"the node list {file} is not YAML{place}", "correct it there")
    entries = body.get("nodes") if isinstance(body, Mapping) and set(body) == {"nodes"} else None
    if not isinstance(entries, list):
        return _refused(f"the node list {file} is not a list `nodes`", f"write nodes: [{_EXAMPLE}, ...]")
    members: list[Member] = []
    problems: list[str] = []
    for number, entry in enumerate(entries, 1):
        member = _member(entry)
        if isinstance(member, Member):
            if any(member.name == other.name for other in members):
                problems.append(f"entry {number} ({member.name}): there is another of this name; rename one of them")
            members.append(member)
        else:
            name = entry.get("name") if isinstance(entry, Mapping) else None
            problems += [f"entry {number}{f' ({name})' if name else ''}: {each}" for each in member]
    if problems:
        count = f"{len(problems)} problem{'s'[: len(problems) != 1]}"
        return _refused(f"{count} in the node list {file}", "\n".join(f"  {each}" for each in problems))
    return tuple(members)


def _member(entry: Any) -> Member | list[str]:
    if not isinstance(entry, Mapping):
        return [f"{entry!r} is not a node; write {_EXAMPLE}"]
    name, cidrs, identity = entry.get("name"), networks(entry.get("podCIDRs", [])), _identity(entry.get("tailnet"))
    problems = [f"unknown key {key!r}; write {', '.join(_KEYS)}" for key in entry if key not in _KEYS]
    if not isinstance(name, str) or not name:
        problems.append(f"name {name!r} is not a name; write that of the node, like worker-1")
    if isinstance(cidrs, Wrong):
        problems.append(f"podCIDRs: {cidrs.what}; {cidrs.cure}")
    elif not cidrs:
        problems.append("podCIDRs: none is given; write those of the node, like [10.244.1.0/24]")
    if isinstance(identity, str):
        problems.append(f"tailnet: {identity}")
    if problems or isinstance(cidrs, Wrong) or isinstance(identity, str):
        return problems
    return Member(str(name), cidrs, identity)


def _identity(given: Any) -> Identity | str:
    """Or what is wrong with it."""
    choice = "write one of address, nodeKey and id (`headscale nodes list` has them)"
    if not isinstance(given, Mapping) or len(given) != 1:
        return f"{given!r} does not say which node of the tailnet it is; {choice}"
    mark, value = next(iter(given.items()))
    if mark not in set(Mark):
        return f"a node is not known by its {mark!r}, which it may choose itself or which is unknown; {choice}"
    return next(_checked(Mark(mark), str(value)), f"{mark} {value!r} is not one; {_FORMS[Mark(mark)]}")


def _checked(mark: Mark, value: str) -> Iterator[Identity]:
    if mark is Mark.ADDRESS:
        try:
            yield Identity(mark, str(ip_address(value)))
        except ValueError:
            return
    elif _NODE_KEY.fullmatch(value) if mark is Mark.NODE_KEY else value.isascii() and value.isdigit():
        yield Identity(mark, value)


_FORMS = {
    Mark.ADDRESS: "write its IP address in the tailnet, like 100.64.0.3",
    Mark.NODE_KEY: "write nodekey: and 64 hexadecimal digits",
    Mark.ID: "write its number in Headscale, like 7",
}


def _refused(what: str, cure: str) -> Refusal:
    return Refusal(Code.INVALID_CONFIGURATION, what, cure)
