"""What a daemon must do with what it finds: one event for each record, one fate for each intent.

The daemon asks about records at its start and in its audit each minute; `headcni replay` asks about a copied
directory. They get the same answer here, so the command tells the truth about the daemon. `World` is what was
*looked up* before asking; a key it does not hold is unknown, and nothing is ever torn down for something unknown.

Only the command asks `plan_intent`. The daemon meets the same two questions at different times: whether an intent
was answered when it reads it, whether it has expired (`Intent.expired`) when its turn comes, which may be later.

Four cells of the table deserve their reason:

- *Another boot* is judged before the namespace. The kernel numbers namespaces from the same start after each boot, so
  a namespace of the recorded device and inode most likely exists again and is somebody else's.
- *Namespace gone, link present*: the name in the file system is gone, but a link lives only as long as its namespace;
  some process still keeps the pod's. It is kept until the link goes, too.
- *Addresses alone* (`headcni-ipam`) have no link of ours, so the missing name of a namespace is one sign and proves
  nothing: the plugin in front of us may have a pod there. They wait for DEL, GC, or a second sign from Kubernetes.
- *Allocated and answered* is a pod whose link was lost: it is wired again, however long that takes. Only what
  nobody was told of and nobody waits for is given up.

In the audit a `Resume` concerns only a record that no task works on; a task that waits for its next try knows
better when that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from statemachine.attachment import Attachment, State
from statemachine.intent import Intent
from statemachine.machine import Delete, Event, Lost, Resume, next_step


@dataclass(frozen=True, slots=True)
class World:
    boot_id: str
    # True: exists, with the recorded device and inode. False: gone, or another one under the same path.
    namespace_alive: Mapping[str, bool | None] = field(default_factory=dict)
    link_present: Mapping[str, bool | None] = field(default_factory=dict)
    pending_adds: frozenset[str] = frozenset()  # keys of ADD intents that are still to be executed


def plan_restart(record: Attachment, world: World) -> Event | None:
    """None: leave it as it is."""
    alive = world.namespace_alive.get(record.key)
    linked = world.link_present.get(record.key)
    gone = alive is False and linked is False and record.goal is not State.ALLOCATED
    if record.state in (State.TEARING_DOWN, State.TORN_DOWN):
        return Resume()
    if record.boot_id != world.boot_id:
        return Delete(f"made in another boot ({record.boot_id})")
    if not record.answered:
        return None if record.key in world.pending_adds else Delete("the ADD that made it is gone")
    if gone:
        return Delete("its network namespace is gone")
    if record.state in (State.WIRED, State.ADVERTISED) and alive and linked is False:
        return Lost("its link vanished")
    return Resume() if next_step(record) else None


class Fate(StrEnum):
    EXECUTE = "execute"
    DISCARD = "discard"  # its deadline has passed: nobody waits for it
    UNLINK = "unlink"  # its answer exists already


def plan_intent(intent: Intent, answered: bool, boot_id: str, now_ns: int) -> Fate:
    if answered:
        return Fate.UNLINK
    return Fate.DISCARD if intent.expired(now_ns, boot_id) else Fate.EXECUTE
