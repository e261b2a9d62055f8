"""The plugin as a runtime meets it: a process, an environment, standard input; and its rules as a source file."""

import ast
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cni import plugin

SOURCE = Path(plugin.__file__)
BUILT_IN = {"errno", "fcntl", "posix", "select", "sys", "time"}
ENV = {"CNI_CONTAINERID": "abc123", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}


@pytest.fixture
def state(tmp_path):
    for name in ("tmp", "intents", "results"):
        (tmp_path / name).mkdir()
    return tmp_path


def config(state, **more):
    return json.dumps({"cniVersion": "1.1.0", "name": "n", "state_dir": str(state), **more}).encode()


def start(verb, env=ENV, as_name="headcni", **kwargs):
    search = f"sys.path.insert(0, {str(SOURCE.parent)!r})"
    code = f"import sys; sys.argv[0] = {as_name!r}; {search}; import plugin; plugin.main()"
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**env, **({"CNI_COMMAND": verb} if verb else {})},
        **kwargs,
    )


def call(verb, conf=b"", env=ENV, as_name="headcni"):
    process = start(verb, env, as_name)
    out, err = process.communicate(conf, timeout=20)
    return process.returncode, out, err


def error(out):
    body = json.loads(out)
    assert set(body) == {"cniVersion", "code", "msg", "details"}
    return body


class HeldLock:
    def __init__(self, state):
        self.fd = os.open(state / "daemon.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)


def answer_when_asked(state, suffix, content, *, unlink=True):
    """A daemon of one answer: waits for the intent, answers it, unlinks it; returns what the intent held."""
    seen = {}

    def serve():
        deadline = time.monotonic() + 10
        while not (names := os.listdir(state / "intents")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        path = state / "intents" / names[0]
        seen["name"], seen["raw"] = names[0], path.read_bytes()
        stem = names[0].rsplit(".", 2)[0]
        (state / "tmp" / "answer").write_bytes(content)
        (state / "tmp" / "answer").rename(state / "results" / (stem + suffix))
        if unlink:
            path.unlink()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, seen


# --- rules of the source


def test_imports_built_in_modules_only():
    imported = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported <= BUILT_IN


def test_never_uses_what_a_frozen_interpreter_lacks():
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"print", "open", "input", "__import__", "exec", "eval"}


def test_opens_no_module_from_disk(state):
    """A whole ADD: no file of the standard library beyond those that every interpreter start opens."""
    strace = ["strace", "-f", "-e", "trace=openat", "-e", "status=successful"]
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    environ = {**ENV, "CNI_COMMAND": "ADD"}

    def opened(script):
        run = subprocess.run(
            [*strace, python, "-I", "-S", script],
            input=config(state, timeout_seconds=1),
            env=environ,
            capture_output=True,
        )
        return {line.split('"')[1] for line in run.stderr.decode().splitlines() if ".py" in line or ".so" in line}

    empty = state / "empty.py"
    empty.write_text("import sys\n")
    extra = {path for path in opened(str(SOURCE)) - opened(str(empty)) if path != str(SOURCE)}
    shared_modules = {path for path in extra if "lib-dynload" in path}  # interpreters that do not build these in
    assert extra <= shared_modules


# --- without a daemon


def test_by_hand_it_says_what_it_is():
    code, out, err = call(None, env={})
    assert (code, out) == (0, b"")
    assert b"CNI plugin headcni" in err
    assert b"1.1.0" in err


def test_version_needs_no_configuration():
    code, out, _ = call("VERSION", b'{"cniVersion": "1.0.0"}')
    assert code == 0
    assert json.loads(out) == {"cniVersion": "1.0.0", "supportedVersions": list(plugin.SUPPORTED_VERSIONS)}


@pytest.mark.parametrize(
    ("verb", "env", "named"),
    [
        ("FLY", ENV, "CNI_COMMAND='FLY'"),
        ("ADD", {}, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        ("DEL", {"CNI_CONTAINERID": "a"}, "CNI_IFNAME"),
        ("ADD", {**ENV, "CNI_CONTAINERID": "../etc"}, "'../etc'"),
        ("ADD", {**ENV, "CNI_CONTAINERID": "a..b"}, "'a..b'"),
        ("ADD", {**ENV, "CNI_CONTAINERID": "a/b"}, "'a/b'"),
        ("ADD", {**ENV, "CNI_CONTAINERID": "-a"}, "'-a'"),
        ("ADD", {**ENV, "CNI_CONTAINERID": "a" * 181}, "CNI_CONTAINERID"),
        ("ADD", {**ENV, "CNI_IFNAME": "x" * 16}, "CNI_IFNAME"),
        ("ADD", {**ENV, "CNI_IFNAME": ".."}, "CNI_IFNAME"),
        ("ADD", {**ENV, "CNI_IFNAME": "a b"}, "CNI_IFNAME"),
    ],
)
def test_bad_environment_is_code_4_and_names_the_variable(state, verb, env, named):
    code, out, _ = call(verb, config(state), env)
    body = error(out)
    assert (code, body["code"]) == (1, 4)
    assert named in body["msg"]
    assert body["details"]
    assert os.listdir(state / "intents") == []


@pytest.mark.parametrize("value", ['"relative"', "7", '"/a\\u0041"'])
def test_a_state_dir_that_is_no_path_is_code_7(value):
    _, out, _ = call("ADD", b'{"cniVersion": "1.0.0", "state_dir": ' + value.encode() + b"}")
    assert error(out)["code"] == 7


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "GC"])
def test_without_a_daemon_the_deadline_ends_in_code_11_and_leaves_nothing(state, verb):
    began = time.monotonic()
    code, out, _ = call(verb, config(state, timeout_seconds=1))
    assert 1.0 <= time.monotonic() - began < 3.0
    body = error(out)
    assert (code, body["code"]) == (1, 11)
    assert "no HeadCNI daemon" in body["msg"]
    assert [os.listdir(state / each) for each in ("tmp", "intents", "results")] == [[], [], []]


def test_with_a_silent_daemon_the_error_says_that_it_lives(state):
    with HeldLock(state):
        _, out, _ = call("ADD", config(state, timeout_seconds=1))
    assert "did not answer in time" in error(out)["msg"]


def test_a_delete_without_a_daemon_leaves_its_intent_and_succeeds_at_once(state):
    began = time.monotonic()
    code, out, _ = call("DEL", config(state))
    assert (code, out) == (0, b"")
    assert time.monotonic() - began < 2.0
    (name,) = os.listdir(state / "intents")
    assert name.endswith("-abc123@eth0.DEL.json")
    assert os.listdir(state / "results") == []


def test_missing_directories_are_made(tmp_path):
    code, _, _ = call("DEL", config(tmp_path / "new"))
    assert code == 0
    assert len(os.listdir(tmp_path / "new" / "intents")) == 1
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_an_unwritable_state_dir_is_code_5():
    _, out, _ = call("ADD", config("/proc/nowhere"))
    assert error(out)["code"] == 5


# --- with a daemon


@pytest.mark.parametrize(("suffix", "code"), [(".result", 0), (".error", 1)])
def test_prints_the_answer_as_it_is_and_tidies_up(state, suffix, code):
    with HeldLock(state):
        thread, seen = answer_when_asked(state, suffix, b"exactly this\x00")
        got, out, _ = call("ADD", config(state))
        thread.join()
    assert (got, out) == (code, b"exactly this\x00")
    assert os.listdir(state / "results") == []
    body = json.loads(seen["raw"])
    assert body["env"]["CNI_NETNS"] == "/run/netns/x"
    assert json.loads(body["config"])["name"] == "n"
    assert body["deadline"] - body["made"] == 30_000_000_000


def test_takes_away_an_intent_it_was_answered_to(state):
    """A daemon killed between its answer and its unlink would otherwise leave the call to be executed once more."""
    with HeldLock(state):
        thread, _ = answer_when_asked(state, ".result", b"{}", unlink=False)
        call("ADD", config(state))
        thread.join()
    assert os.listdir(state / "intents") == []


def test_as_headcni_ipam_it_says_so(state):
    with HeldLock(state):
        thread, seen = answer_when_asked(state, ".result", b"{}")
        call("ADD", config(state), as_name="/opt/cni/bin/headcni-ipam")
        thread.join()
    assert json.loads(seen["raw"])["plugin"] == "headcni-ipam"


@pytest.mark.parametrize("conf", [b"\xff\xfe not utf-8", b'{"a": "line\\nbreak",\n\t"b": "\xc3\xa9"}', b"", b"{{{"])
def test_any_bytes_arrive_as_they_were(state, conf):
    """Also what is no JSON at all: it is the daemon's to answer."""
    env = {**ENV, "HOME": "/"}
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r}); import plugin;"
        f"plugin.DEFAULT_STATE_DIR = {os.fsencode(state)!r}; plugin.main()"
    )
    with HeldLock(state):
        thread, seen = answer_when_asked(state, ".result", b"")
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", code],
            input=conf,
            env={**env, "CNI_COMMAND": "ADD"},
            check=True,
            timeout=20,
        )
        thread.join()
    body = json.loads(seen["raw"])
    carried = bytes.fromhex(body["config_hex"]) if "config_hex" in body else body["config"].encode()
    assert carried == conf


def test_killed_while_waiting_it_leaves_an_intent_that_expires(state):
    process = start("ADD")
    process.stdin.write(config(state, timeout_seconds=5))
    process.stdin.close()
    deadline = time.monotonic() + 10
    while not (names := os.listdir(state / "intents")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    assert json.loads((state / "intents" / names[0]).read_bytes())["deadline"] < time.monotonic_ns() + 5_000_000_000


def test_a_delete_is_done_when_its_intent_is_gone(state):
    with HeldLock(state):
        process = start("DEL")
        process.stdin.write(config(state))
        process.stdin.close()
        deadline = time.monotonic() + 10
        while not (names := os.listdir(state / "intents")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        (state / "intents" / names[0]).unlink()
        assert process.wait(timeout=10) == 0
        assert process.stdout.read() == b""
        process.stdout.close()
        process.stderr.close()


def test_an_empty_error_means_that_the_daemon_had_no_space(state):
    with HeldLock(state):
        thread, _ = answer_when_asked(state, ".error", b"")
        code, out, _ = call("ADD", config(state))
        thread.join()
    assert (code, error(out)["code"]) == (1, 5)


# --- STATUS


def status_file(state, code, msg="", details="", age=0.0):
    body = {"format": "headcni/status/1", "not_ready": [{"cni_code": 7}], "cni_code": code, "cni_msg": msg}
    beat = time.monotonic_ns() - int(age * 1e9)
    (state / "status.json").write_text(json.dumps({**body, "cni_details": details, "cni_beat": max(0, beat)}))


def test_status_is_silent_when_ready(state):
    status_file(state, 0)
    with HeldLock(state):
        assert call("STATUS", config(state), {})[:2] == (0, b"")
    assert os.listdir(state / "intents") == []


def test_status_passes_the_daemons_reason_on(state):
    status_file(state, 50, 'pool "a" is empty', "delete pods")
    with HeldLock(state):
        code, out, _ = call("STATUS", config(state), {})
    body = error(out)
    assert (code, body["code"], body["msg"], body["details"]) == (1, 50, 'pool "a" is empty', "delete pods")


def test_status_without_a_daemon_is_50(state):
    status_file(state, 0)
    assert error(call("STATUS", config(state), {})[1])["code"] == 50


def test_status_of_a_daemon_that_renewed_it_lately_is_silent(state):
    status_file(state, 0, age=plugin.STILL_SECONDS - 5)
    with HeldLock(state):
        assert call("STATUS", config(state), {})[:2] == (0, b"")


@pytest.mark.skipif(time.monotonic() < 100, reason="this machine has just booted")
def test_status_of_a_daemon_that_hangs_is_50_and_says_since_when(state):
    status_file(state, 0, age=plugin.STILL_SECONDS + 5)
    with HeldLock(state):
        code, out, _ = call("STATUS", config(state), {})
    body = error(out)
    assert (code, body["code"]) == (1, 50)
    assert body["msg"].startswith("the HeadCNI daemon has not moved for 4")
    assert "restart it" in body["details"]


def test_a_status_of_an_earlier_boot_is_not_this_daemons(state):
    status_file(state, 0, age=-60)
    with HeldLock(state):
        body = error(call("STATUS", config(state), {})[1])
    assert (body["code"], body["msg"]) == (50, "the HeadCNI daemon is starting")


def test_a_status_without_a_beat_is_not_believed(state):
    (state / "status.json").write_text('{"format": "headcni/status/1", "cni_code": 0}')
    with HeldLock(state):
        assert error(call("STATUS", config(state), {})[1])["code"] == 50


def test_status_before_1_1_0_is_an_incompatible_version(state):
    _, out, _ = call("STATUS", config(state, cniVersion="1.0.0"), {})
    assert error(out)["code"] == 1


# --- the scan


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"a":"x"}', {b"a": b'"x"'}),
        (b' {\n "a" :\t"x" , "b": 12 }', {b"a": b'"x"', b"b": b"12"}),
        (b'{"p":{"a":"inner"},"a":"outer"}', {b"a": b'"outer"'}),
        (b'{"a":"outer","p":{"a":"inner"}}', {b"a": b'"outer"'}),
        (b'{"l":[{"a":"inner"}]}', {}),
        (b'{"t":"quote \\" and {","a":"x"}', {b"a": b'"x"'}),
        (b'{"t":"back\\\\","a":"x"}', {b"a": b'"x"'}),
        (b'{"v":"a","b":3}', {b"b": b"3"}),
        (b"not json", {}),
        (b"", {}),
        (b'{"a"', {}),
    ],
)
def test_finds_keys_of_the_first_level_only(text, found):
    assert plugin.top_level(text, (b"a", b"b")) == found
