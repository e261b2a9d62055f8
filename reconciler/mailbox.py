"""The daemon's end of the exchange with plugins: intents come in by rename, answers go out by rename.

The order in `answer` is the protocol (docs/design/core.md): the answer becomes visible, then the intent goes, then
the bell rings. A daemon killed in between finds, at its next start, an intent whose answer exists, and only unlinks
it. A plugin that gave up has unlinked its intent itself, and reads no answer that comes later; `sweep` removes such
leftovers.

Listing the directory is the truth. The doorbell and watchfiles only say when to list.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from cni.spec import Verb
from reconciler.store import NO_SPACE, NoSpace, Store, Unreadable, read_bytes
from statemachine.attachment import Damaged, UnknownVersion
from statemachine.intent import Intent, IntentName, decode, parse_name

VERBS = (Verb.ADD, Verb.DEL, Verb.CHECK, Verb.GC)  # the others the plugin answers by itself
LEFTOVER_NS = 300 * 1_000_000_000  # no plugin waits longer; kubelets give up after two minutes
# Directory entries are compared with a clock that restarts at boot: one "from the future" is of an earlier boot.


class Mailbox:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = store.root
        self._taken: set[str] = set()
        self._doorbell: int | None = None

    @property
    def intents(self) -> Path:
        return self._root / "intents"

    def restore_directories(self) -> None:
        self._store.prepare()

    # --- coming in

    def hang_doorbell(self) -> int | None:
        """A FIFO held open for both ends, so that it never reports a hang-up. Returns what to poll.

        None: there is no room for one. The bell saves time and is needed for nothing.
        """
        path = f"{self._root}/doorbell"
        if os.path.lexists(path) and not stat.S_ISFIFO(os.lstat(path).st_mode):
            self._store.quarantine(path, "it stands in the place of the doorbell, and is no FIFO")
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            return None
        self._doorbell = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        return self._doorbell

    def doorbell_in_place(self) -> bool:
        if self._doorbell is None:
            return True  # there was no room; the rescan serves
        try:
            return os.stat(f"{self._root}/doorbell").st_ino == os.fstat(self._doorbell).st_ino
        except FileNotFoundError:
            return False

    def take_down_doorbell(self) -> None:
        if self._doorbell is not None:
            os.close(self._doorbell)
            self._doorbell = None

    def silence_doorbell(self) -> None:
        if self._doorbell is not None:
            try:
                while len(os.read(self._doorbell, 4096)) == 4096:
                    pass
            except BlockingIOError:
                pass

    def directory_identity(self) -> int | None:
        """The inode of `intents/`: watchfiles falls silent for ever when the directory is replaced."""
        try:
            return os.stat(f"{self._root}/intents").st_ino
        except FileNotFoundError:
            return None

    def collect(self) -> list[Intent]:
        """Every intent not collected before, oldest first. What is no intent goes to quarantine."""
        try:
            listing = os.listdir(f"{self._root}/intents")
        except FileNotFoundError:
            self._store.prepare()
            return []
        fresh = [name for name in listing if name not in self._taken]
        if len(self._taken) > len(listing):
            self._taken.intersection_update(listing)  # plugins that gave up have unlinked theirs
        collected = [intent for name in sorted(fresh) if (intent := self._read(name)) is not None]
        self._taken.update(intent.name.file for intent in collected)
        return collected

    def _read(self, file: str) -> Intent | None:
        path = f"{self._root}/intents/{file}"
        name = parse_name(file)
        try:
            if name is None or name.verb not in VERBS:
                raise Damaged("the file's name is not that of an intent")
            raw = read_bytes(path)
            intent = decode(name, raw)
        except FileNotFoundError:
            return None  # given up between the listing and the reading
        except UnknownVersion as error:
            self._store.left_alone.append(Unreadable(path, str(error)))
            self._taken.add(file)  # a newer daemon may come and understand it
            return None
        except Damaged as error:
            return self._unusable(path, name, str(error))
        except OSError as error:
            return self._unusable(path, name, f"cannot be read: {os.strerror(error.errno or 0)}")
        if self._answered(intent.name):
            self._store.remove(f"intents/{file}")
            return None
        return intent

    def _unusable(self, path: str, name: IntentName | None, reason: str) -> Intent | None:
        """A DEL stays where it is and is done by its name: the plugin takes its absence for success."""
        if name is not None and name.verb is Verb.DEL and not os.path.isdir(path):
            return Intent(name)
        self._store.quarantine(path, reason)
        return None

    def _answered(self, name: IntentName) -> bool:
        answer = f"{self._root}/results/{name.stem}"
        return os.path.exists(answer + ".result") or os.path.exists(answer + ".error")

    # --- going out

    def answer(self, intent: Intent, ok: bool, content: bytes) -> NoSpace | None:
        """A DEL that went well needs no file: its intent is gone. An empty error says that there is no space."""
        no_space = None
        if content or not ok or intent.verb is not Verb.DEL:
            suffix = ".result" if ok else ".error"
            no_space = self._store.write(f"results/{intent.name.stem}{suffix}", content)
        if no_space is not None:
            self._store.write(f"results/{intent.name.stem}.error", b"")
        self.discard(intent)
        self._ring(intent)
        return no_space

    def discard(self, intent: Intent) -> None:
        self._store.remove(f"intents/{intent.name.file}")
        self._taken.discard(intent.name.file)

    def _ring(self, intent: Intent) -> None:
        try:
            fd = os.open(f"{self._root}/results/{intent.name.stem}.bell", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENXIO):
                raise
            return  # the plugin has no bell, or is gone
        try:
            os.write(fd, b".")
        except (BlockingIOError, BrokenPipeError):
            pass  # it is full, or the plugin found its answer by looking, and ended
        finally:
            os.close(fd)

    # --- leftovers

    def sweep(self, now_ns: int) -> int:
        """Answers, bells and drafts nobody waits for any more."""
        swept = 0
        for directory in ("results", "tmp"):
            for file in os.listdir(f"{self._root}/{directory}"):
                made, dot, _ = file.partition(".")
                if not dot or not made.isdigit():
                    continue
                if not 0 <= now_ns - int(made) <= LEFTOVER_NS:
                    self._store.remove(f"{directory}/{file}")
                    swept += 1
        return swept
