"""The program a container runtime executes: it leaves one intent, waits for the answer, prints it.

It knows nothing of networks. The call goes into a file as it came, the answer comes out of a file as it is; between
the two it waits on a bell (a FIFO) and, since bells may be lost, looks at the files themselves now and then. The
whole exchange, and who wins each race, is told in docs/design/core.md.

Rules that keep it fast and let it be frozen into one static file: it imports built-in C modules only, never opens
a module from disk, never parses the configuration (`top_level` finds a few keys by splitting at quotes), never
uses `open`, `print` or a codec, and leaves by `_exit`. Not even `from __future__`: that, too, is a file.

Rejected: inotify or signals to wait for the answer (neither is reachable from built-in modules); polling alone (it
costs either latency or processor time for 110 pods at once); a status inside the answer file (two file names say
the same without parsing).
"""

import errno
import fcntl
import posix
import select
import sys
import time

VERSION = b"0.1.0"
SUPPORTED_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_STATE_DIR = b"/var/lib/headcni"
DEFAULT_TIMEOUT_SECONDS = 30
MAX_TIMEOUT_SECONDS = 110  # the kubelet gives a sandbox two minutes
MAX_CONFIG_BYTES = 16 << 20
MAX_CONTAINER_ID_BYTES = 180  # with time, interface and verb, a file name stays under 255
INTENT_FORMAT = b"headcni/intent/1"

LOST_BELL_MS = 100  # how often to look at the files although no bell rang
NO_BELL_MS = 5
STILL_SECONDS = 40  # the daemon renews its status each 10 s

INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
INVALID_CONFIGURATION = 7
TRY_AGAIN_LATER = 11
UNAVAILABLE = 50
INTERNAL_FAULT = 107

_ALPHANUMERIC = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_CONTAINER_ID = _ALPHANUMERIC + b"_.-"
_CONTROLS = bytes(range(32)) + b"\x7f"
_IN_NO_INTERFACE_NAME = _CONTROLS + b' /:"\\' + bytes(range(128, 256))

# Verb -> the variables without which it means nothing (specification, section 2).
_REQUIRED = {
    b"ADD": (b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME"),
    b"DEL": (b"CNI_CONTAINERID", b"CNI_IFNAME"),
    b"CHECK": (b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME"),
    b"GC": (),
    b"STATUS": (),
}


class Refused(Exception):
    """The call fails here, before or instead of the daemon's answer."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        self.code = code
        self.msg = msg
        self.details = details


def main() -> None:
    """Never returns: `_exit` spares the interpreter's tear-down, about one millisecond."""
    environ = posix.environ  # bytes to bytes, as the kernel gave it
    verb = environ.get(b"CNI_COMMAND", b"")
    if not verb:
        _introduce()
    version = b"1.1.0"
    try:
        config = _read_config()
        keys = top_level(config, (b"cniVersion", b"state_dir", b"timeout_seconds"))
        version = keys.get(b"cniVersion", b'"1.1.0"').strip(b'"')
        ok, answer = _serve(verb, environ, config, keys, version)
    except Refused as refusal:
        ok, answer = False, _error(version, refusal.code, refusal.msg, refusal.details)
    except Exception as fault:  # noqa: BLE001  # the runtime understands nothing but JSON
        name = type(fault).__name__
        ok, answer = False, _error(version, INTERNAL_FAULT, "fault in the plugin", name + ": " + str(fault))
    _write_all(1, answer)
    posix._exit(0 if ok else 1)


def _introduce() -> None:
    versions = ", ".join(SUPPORTED_VERSIONS).encode()
    name = _plugin_name()
    _write_all(
        2,
        b"CNI plugin " + name + b" " + VERSION + b": a container runtime runs it, with CNI_COMMAND set.\n"
        b"CNI protocol versions supported: " + versions + b"\n"
        b"To look at this node's pods, run: headcni status\n",
    )
    posix._exit(0)


def _serve(
    verb: bytes, environ: dict[bytes, bytes], config: bytes, keys: dict[bytes, bytes], version: bytes
) -> tuple[bool, bytes]:
    if verb == b"VERSION":
        return True, _versions(version)
    if verb not in _REQUIRED:
        raise Refused(
            INVALID_ENVIRONMENT,
            "CNI_COMMAND=" + _shown(verb) + " is unknown",
            "use one of ADD, DEL, CHECK, GC, STATUS, VERSION",
        )
    container, ifname = _identity(verb, environ)
    state_dir = _state_dir(keys)
    if verb == b"STATUS":
        return _status(state_dir, version)
    now = time.monotonic_ns()
    deadline = now + _timeout(keys) * 1_000_000_000
    stem = b"%020d.%d-%s@%s" % (now, posix.getpid(), container, ifname)
    intent = _intent(verb, environ, config, now, deadline)
    exchange = Exchange(state_dir, stem, verb, deadline)
    try:
        return exchange.ask(intent)
    finally:
        exchange.tidy()


# --- what the runtime said


def _read_config() -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        piece = posix.read(0, 65536)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > MAX_CONFIG_BYTES:
            raise Refused(
                INVALID_CONFIGURATION,
                "the network configuration is larger than %d MiB" % (MAX_CONFIG_BYTES >> 20),
                "a CNI configuration is a few KiB; see what is piped into the plugin",
            )


def top_level(text: bytes, wanted: tuple[bytes, ...]) -> dict[bytes, bytes]:
    """The raw values (a string with its quotes, or a bare word) of the wanted keys of a JSON object's first level.

    Not a parser: it splits at quotes and counts brackets between them, so a nested key of the same name (prevResult
    carries a cniVersion, too) is not mistaken. On anything that is not JSON it finds little or nothing, and that is
    fine: the daemon, which parses, answers.
    """
    found: dict[bytes, bytes] = {}
    flat = text.replace(b"\\\\", b"..").replace(b'\\"', b"..")  # same length; no escaped quotes left
    parts = flat.split(b'"')
    depth = 0
    offset = 0  # of parts[i] in the text
    for i in range(0, len(parts) - 2, 2):
        between, name, after = parts[i], parts[i + 1], parts[i + 2].strip()
        depth += between.count(b"{") + between.count(b"[") - between.count(b"}") - between.count(b"]")
        offset += len(between) + len(name) + 2
        if depth == 1 and name in wanted and after[:1] == b":":
            if after == b":" and i + 3 < len(parts):
                start = offset + len(parts[i + 2])
                found[name] = text[start : start + len(parts[i + 3]) + 2]
            else:
                found[name] = after[1:].split(b",")[0].split(b"}")[0].strip()
    return found


def _identity(verb: bytes, environ: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Container and interface, checked because they become part of file names."""
    required = _REQUIRED[verb]
    missing = [name.decode() for name in required if not environ.get(name)]
    if missing:
        raise Refused(
            INVALID_ENVIRONMENT,
            "required environment variable missing: " + ", ".join(missing),
            "CNI_COMMAND=" + verb.decode() + " needs " + ", ".join(name.decode() for name in required),
        )
    if not required:
        return b"", b""
    container, ifname = environ[b"CNI_CONTAINERID"], environ[b"CNI_IFNAME"]
    if (
        container.translate(None, _CONTAINER_ID)
        or container[:1] not in _ALPHANUMERIC
        or b".." in container
        or len(container) > MAX_CONTAINER_ID_BYTES
    ):
        raise Refused(
            INVALID_ENVIRONMENT,
            "CNI_CONTAINERID=" + _shown(container) + " is not a container id",
            "it must begin with a letter or digit, hold only letters, digits, '_', '.', '-', no '..', "
            "and be at most %d bytes long" % MAX_CONTAINER_ID_BYTES,
        )
    if len(ifname) > 15 or ifname in (b".", b"..") or len(ifname.translate(None, _IN_NO_INTERFACE_NAME)) != len(ifname):
        raise Refused(
            INVALID_ENVIRONMENT,
            "CNI_IFNAME=" + _shown(ifname) + " is not an interface name",
            "it must be 1 to 15 printable characters without blank, '/', ':' or quotes, and not '.' or '..'",
        )
    return container, ifname


def _state_dir(keys: dict[bytes, bytes]) -> bytes:
    raw = keys.get(b"state_dir")
    if raw is None:
        return DEFAULT_STATE_DIR
    path = raw.strip(b'"').replace(b"\\/", b"/")
    if raw[:1] != b'"' or path[:1] != b"/" or b"\\" in path or path.translate(None, _CONTROLS) != path:
        raise Refused(
            INVALID_CONFIGURATION,
            "state_dir: " + _shown(raw) + " is not an absolute path",
            "give the daemon's state directory as a string that begins with '/' and needs no escapes",
        )
    return path


def _timeout(keys: dict[bytes, bytes]) -> int:
    """Seconds; a value out of range is the daemon's to refuse, so it only must not break the wait."""
    raw = keys.get(b"timeout_seconds", b"")
    if raw.isdigit() and len(raw) < 6 and 1 <= int(raw) <= MAX_TIMEOUT_SECONDS:
        return int(raw)
    return DEFAULT_TIMEOUT_SECONDS


# --- the intent


def _intent(verb: bytes, environ: dict[bytes, bytes], config: bytes, now: int, deadline: int) -> bytes:
    pairs = []
    for name in sorted(environ):
        if name[:4] == b"CNI_" or name in (b"TRACEPARENT", b"TRACESTATE"):
            value = quoted(environ[name])
            if value is None:
                raise Refused(INVALID_ENVIRONMENT, _shown(name) + " is not UTF-8", "set it to plain text")
            pairs.append(b'"' + name + b'": ' + value)
    text = quoted(config)
    carried = b'"config": ' + text if text is not None else b'"config_hex": "' + config.hex().encode() + b'"'
    return b"".join(
        (
            b'{"format": "' + INTENT_FORMAT + b'", "verb": "' + verb + b'", "plugin": "' + _plugin_name() + b'",\n',
            b' "boot_id": "'
            + _boot_id()
            + b'", "made": %d, "deadline": %d, "wall": %d,\n' % (now, deadline, time.time_ns()),
            b' "env": {' + b", ".join(pairs) + b"},\n ",
            carried,
            b"}\n",
        )
    )


def quoted(raw: bytes) -> bytes | None:
    """As a JSON string; None when it is not UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return None
    out = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    if out.translate(None, _CONTROLS) != out:
        for control in _CONTROLS:
            out = out.replace(b"%c" % control, b"\\u%04x" % control)
    return b'"' + out + b'"'


def _boot_id() -> bytes:
    try:
        fd = posix.open("/proc/sys/kernel/random/boot_id", posix.O_RDONLY)
    except OSError:
        return b""  # no /proc here; the daemon takes it for its own boot
    boot_id = posix.read(fd, 64).strip()
    posix.close(fd)
    return boot_id


def _plugin_name() -> bytes:
    called = sys.argv[0].rpartition("/")[2] if sys.argv else ""
    return b"headcni-ipam" if called.startswith("headcni-ipam") else b"headcni"


class Exchange:
    """One intent, from `ask` to `tidy`."""

    def __init__(self, state_dir: bytes, stem: bytes, verb: bytes, deadline: int) -> None:
        self.state_dir = state_dir
        self.verb = verb
        self.deadline = deadline
        name = stem + b"." + verb + b".json"
        self.draft = state_dir + b"/tmp/" + name
        self.intent = state_dir + b"/intents/" + name
        self.answer = state_dir + b"/results/" + stem
        self.bell: int | None = None
        self.answered = False

    def ask(self, content: bytes) -> tuple[bool, bytes]:
        try:
            self._leave(content)
        except OSError as error:
            raise Refused(
                IO_FAILURE,
                f"the intent could not be written below {_shown(self.state_dir)}: {posix.strerror(error.errno or 0)}",
                "free space or inodes there, and see that root may write; a delete needs an inode, but no space",
            ) from None
        self._ring()
        return self._wait() or self._give_up()

    def tidy(self) -> None:
        """After an answer the intent goes first, in case a daemon was killed before it could: it is not done twice."""
        if self.answered:
            _unlink(self.intent)
        for path in (self.answer + b".bell", self.answer + b".result", self.answer + b".error", self.draft):
            _unlink(path)

    def _leave(self, content: bytes) -> None:
        try:
            fd = posix.open(self.draft, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            self._make_directories()
            fd = posix.open(self.draft, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, content)
        except OSError as error:
            if self.verb != b"DEL" or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            posix.ftruncate(fd, 0)  # an empty DEL says it all by its name
        finally:
            posix.close(fd)
        self._hang_bell()
        try:
            posix.rename(self.draft, self.intent)
        except FileNotFoundError:
            self._make_directories()
            posix.rename(self.draft, self.intent)

    def _make_directories(self) -> None:
        for path in (b"", b"/tmp", b"/intents", b"/results"):
            try:
                posix.mkdir(self.state_dir + path, 0o700)
            except FileExistsError:
                pass

    def _hang_bell(self) -> None:
        """Without a bell (a full disk) the answer is polled for."""
        path = self.answer + b".bell"
        try:
            posix.mkfifo(path, 0o600)
            self.bell = posix.open(path, posix.O_RDWR | posix.O_NONBLOCK | posix.O_CLOEXEC)
        except OSError:
            self.bell = None

    def _ring(self) -> None:
        try:
            fd = posix.open(self.state_dir + b"/doorbell", posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
            posix.write(fd, b".")
            posix.close(fd)
        except OSError:
            pass  # nobody listens: the daemon finds the intent by itself, or nobody does

    def _wait(self) -> tuple[bool, bytes] | None:
        poller = select.poll()
        pause = NO_BELL_MS
        if self.bell is not None:
            poller.register(self.bell, select.POLLIN)
            pause = LOST_BELL_MS
        while True:
            answered = self._look()
            if answered is not None:
                return answered
            if self.verb == b"DEL" and not daemon_lives(self.state_dir):
                return None
            left = (self.deadline - time.monotonic_ns()) // 1_000_000
            if left <= 0:
                return None
            if poller.poll(min(left, pause)) and self.bell is not None:
                posix.read(self.bell, 16)

    def _look(self) -> tuple[bool, bytes] | None:
        """A DEL that went well leaves no file: its intent is gone, and (looked at afterwards) there is no error."""
        done = self.verb == b"DEL" and not _exists(self.intent)
        result = b"" if done else _read_file(self.answer + b".result")
        error = _read_file(self.answer + b".error") if not result else None
        if error == b"":
            raise Refused(
                IO_FAILURE,
                "the daemon had no space for its answer below " + _shown(self.state_dir),
                "free space there; deletes still work",
            )
        if error is None and result is None:
            return None
        self.answered = True
        return (True, result or b"") if error is None else (False, error)

    def _give_up(self) -> tuple[bool, bytes]:
        if self.verb == b"DEL":
            return True, b""  # the intent stays: the daemon, when there is one, finishes it
        if not _unlink(self.intent):
            answered = self._look()  # taken away by the daemon, which answers first and unlinks then
            if answered is not None:
                return answered
        if daemon_lives(self.state_dir):
            state = "the HeadCNI daemon runs but did not answer in time"
            cure = "see `headcni status` and the daemon's log"
        else:
            state = "no HeadCNI daemon runs on this node"
            cure = "start it; the runtime will try again by itself"
        raise Refused(TRY_AGAIN_LATER, state, cure + " (state directory " + _shown(self.state_dir) + ")")


def daemon_lives(state_dir: bytes) -> bool:
    """Whether somebody holds the daemon's lock. Looking takes a shared lock for an instant, and gives it back."""
    try:
        fd = posix.open(state_dir + b"/daemon.lock", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        posix.close(fd)
    return False


# --- answers of its own


def _versions(version: bytes) -> bytes:
    known = b", ".join(b'"' + v.encode() + b'"' for v in SUPPORTED_VERSIONS)
    return b'{"cniVersion": ' + (quoted(version) or b'"1.1.0"') + b', "supportedVersions": [' + known + b"]}\n"


def _status(state_dir: bytes, version: bytes) -> tuple[bool, bytes]:
    """From two files, waking nobody: runtimes ask every five seconds."""
    if version.decode("ascii", "replace") < "1.1.0":
        raise Refused(1, "STATUS came with cniVersion " + _shown(version), "it exists from 1.1.0 on")
    if not daemon_lives(state_dir):
        raise Refused(UNAVAILABLE, "no HeadCNI daemon runs on this node", "start it; see `headcni status`")
    text = _read_file(state_dir + b"/status.json")
    if text is None:
        raise Refused(UNAVAILABLE, "the HeadCNI daemon is starting", "it writes status.json when it is ready")
    keys = top_level(text, (b"cni_code", b"cni_msg", b"cni_details", b"cni_beat"))
    code, beat = keys.get(b"cni_code", b""), keys.get(b"cni_beat", b"")
    if not code.isdigit() or not beat.isdigit():
        raise Refused(UNAVAILABLE, "status.json is not readable", "the daemon writes it anew within seconds")
    still = (time.monotonic_ns() - int(beat)) // 1_000_000_000
    if not 0 <= still <= STILL_SECONDS:  # one from the future is of an earlier boot
        raise Refused(UNAVAILABLE, *stillness(still))
    if code == b"0":
        return True, b""
    return False, b'{"cniVersion": %s, "code": %s, "msg": %s, "details": %s}\n' % (
        quoted(version) or b'"1.1.0"',
        code,
        keys.get(b"cni_msg", b'""'),
        keys.get(b"cni_details", b'""'),
    )


def stillness(seconds: int) -> tuple[str, str]:
    """What is wrong, and what to do, when a daemon that lives last renewed its status so long ago."""
    if seconds < 0:
        return "the HeadCNI daemon is starting", "it writes status.json when it is ready"
    return (
        "the HeadCNI daemon has not moved for %d s" % seconds,
        "see its log; free space if the disk is full, else restart it: pods keep their network",
    )


def _error(version: bytes, code: int, msg: str, details: str) -> bytes:
    return b'{"cniVersion": %s, "code": %d, "msg": %s, "details": %s}\n' % (
        quoted(version) or b'"1.1.0"',
        code,
        quoted(msg.encode("utf-8", "replace")) or b'""',
        quoted(details.encode("utf-8", "replace")) or b'""',
    )


def _shown(raw: bytes) -> str:
    """A value in a message: bounded, and never able to break the JSON around it."""
    return "'" + raw[:80].decode("ascii", "replace") + ("…'" if len(raw) > 80 else "'")


# --- files


def _read_file(path: bytes) -> bytes | None:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return None
    pieces = []
    while True:
        piece = posix.read(fd, 65536)
        if not piece:
            break
        pieces.append(piece)
    posix.close(fd)
    return b"".join(pieces)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[posix.write(fd, data) :]


def _exists(path: bytes) -> bool:
    try:
        posix.stat(path)
    except FileNotFoundError:
        return False
    return True


def _unlink(path: bytes) -> bool:
    try:
        posix.unlink(path)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
