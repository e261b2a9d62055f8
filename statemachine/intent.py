"""One call of the plugin, as the daemon reads it: the file's name says which and when, its content says what.

The name alone is enough to order intents and to find their attachment, and for a DEL it is enough altogether: on a
full disk the plugin leaves an empty file. Times are CLOCK_MONOTONIC, so a wall clock that jumps neither reorders nor
expires anything; they mean something only in the boot that the intent names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cni.spec import Verb
from statemachine.envelope import Damaged, parsed

FORMAT = "headcni/intent/1"


@dataclass(frozen=True, slots=True)
class IntentName:
    stem: str  # names the answer
    made_ns: int
    container: str
    ifname: str
    verb: Verb

    @property
    def key(self) -> str:
        return f"{self.container}@{self.ifname}"

    @property
    def file(self) -> str:
        return f"{self.stem}.{self.verb.value}.json"


@dataclass(frozen=True, slots=True)
class Intent:
    name: IntentName
    plugin: str = "headcni"
    boot_id: str = ""
    deadline_ns: int | None = None  # None: an empty DEL, which does not expire
    env: Mapping[str, str] = field(default_factory=dict)
    config: bytes = b""
    wall_ns: int = 0

    @property
    def key(self) -> str:
        return self.name.key

    @property
    def verb(self) -> Verb:
        return self.name.verb

    def expired(self, now_ns: int, boot_id: str) -> bool:
        """A DEL never expires: the plugin has promised the runtime that it will be done."""
        if self.verb is Verb.DEL or self.deadline_ns is None:
            return False
        if self.boot_id and self.boot_id != boot_id:
            return True
        return now_ns >= self.deadline_ns


def parse_name(file: str) -> IntentName | None:
    """None when the file is no intent of ours."""
    body, _, extension = file.rpartition(".")
    stem, _, verb = body.rpartition(".")
    when, _, key = stem.partition("-")
    container, at, ifname = key.partition("@")
    made = when.partition(".")[0]
    if extension != "json" or not at or not made.isdecimal() or verb not in Verb.__members__:
        return None
    return IntentName(stem, int(made), container, ifname, Verb(verb))


def decode(name: IntentName, raw: bytes) -> Intent:
    if not raw and name.verb is Verb.DEL:
        return Intent(name)
    body = parsed(raw, FORMAT)
    try:
        return Intent(
            name=name,
            plugin=body["plugin"],
            boot_id=body["boot_id"],
            deadline_ns=int(body["deadline"]),
            env=dict(body["env"]),
            config=bytes.fromhex(body["config_hex"]) if "config_hex" in body else body["config"].encode(),
            wall_ns=int(body["wall"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"field missing or malformed: {error!r}") from None
