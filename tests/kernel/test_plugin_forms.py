"""The plugin as a runtime meets it: a process, an environment, standard input. Each test on each form of it."""

import json
import os
import signal
import time

import pytest
from plugin_forms import ENV, FORMS, HeldLock, answer, answer_when_asked, make, wait_for_intent

from cni import plugin

pytestmark = pytest.mark.kernel

MIB = 1 << 20


@pytest.fixture(scope="module", params=FORMS)
def form(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp("form"))


@pytest.fixture
def state(tmp_path):
    for name in ("tmp", "intents", "results"):
        (tmp_path / name).mkdir()
    return tmp_path


def config(state, **more):
    return json.dumps({"cniVersion": "1.1.0", "name": "n", "state_dir": str(state), **more}).encode()


def error(out):
    body = json.loads(out)
    assert set(body) == {"cniVersion", "code", "msg", "details"}
    return body


def left(state):
    return [os.listdir(state / each) for each in ("tmp", "intents", "results")]


# --- without a daemon


def test_by_hand_it_says_what_it_is(form):
    code, out, err = form.call(None, env={})
    assert (code, out) == (0, b"")
    assert b"CNI plugin headcni " in err
    assert b"1.1.0" in err


def test_version_needs_no_configuration(form):
    code, out, _ = form.call("VERSION", b'{"cniVersion": "1.0.0"}')
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
        ("ADD", {**ENV, "CNI_CONTAINERID": b"\xff\xfe"}, "CNI_CONTAINERID"),
        ("ADD", {**ENV, "CNI_IFNAME": "x" * 16}, "CNI_IFNAME"),
        ("ADD", {**ENV, "CNI_IFNAME": ".."}, "CNI_IFNAME"),
        ("ADD", {**ENV, "CNI_IFNAME": "a b"}, "CNI_IFNAME"),
        ("ADD", {**ENV, "CNI_NETNS": b"/run/\xff"}, "CNI_NETNS"),
    ],
)
def test_bad_environment_is_code_4_and_names_the_variable(form, state, verb, env, named):
    code, out, _ = form.call(verb, config(state), env)
    body = error(out)
    assert (code, body["code"]) == (1, 4)
    assert named in body["msg"]
    assert body["details"]
    assert os.listdir(state / "intents") == []


@pytest.mark.parametrize("value", ['"relative"', "7", '"/a\\u0041"'])
def test_a_state_dir_that_is_no_path_is_code_7(form, value):
    _, out, _ = form.call("ADD", b'{"cniVersion": "1.0.0", "state_dir": ' + value.encode() + b"}")
    assert error(out)["code"] == 7


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "GC"])
def test_without_a_daemon_the_deadline_ends_in_code_11_and_leaves_nothing(form, state, verb):
    began = time.monotonic()
    code, out, _ = form.call(verb, config(state, timeout_seconds=1))
    assert 1.0 <= time.monotonic() - began < 3.0
    body = error(out)
    assert (code, body["code"]) == (1, 11)
    assert "no HeadCNI daemon" in body["msg"]
    assert left(state) == [[], [], []]


def test_with_a_silent_daemon_the_error_says_that_it_lives(form, state):
    with HeldLock(state):
        _, out, _ = form.call("ADD", config(state, timeout_seconds=1))
    assert "did not answer in time" in error(out)["msg"]


def test_a_delete_without_a_daemon_leaves_its_intent_and_succeeds_at_once(form, state):
    began = time.monotonic()
    code, out, _ = form.call("DEL", config(state))
    assert (code, out) == (0, b"")
    assert time.monotonic() - began < 2.0
    (name,) = os.listdir(state / "intents")
    assert name.endswith("-abc123@eth0.DEL.json")
    assert os.listdir(state / "results") == []


def test_missing_directories_are_made(form, tmp_path):
    code, _, _ = form.call("DEL", config(tmp_path / "new"))
    assert code == 0
    assert len(os.listdir(tmp_path / "new" / "intents")) == 1
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_an_unwritable_state_dir_is_code_5_and_says_why(form):
    _, out, _ = form.call("ADD", config("/proc/nowhere"))
    body = error(out)
    assert body["code"] == 5
    assert "No such file or directory" in body["msg"]


# --- with a daemon


@pytest.mark.parametrize(("suffix", "code"), [(".result", 0), (".error", 1)])
def test_prints_the_answer_as_it_is_and_tidies_up(form, state, suffix, code):
    with HeldLock(state):
        thread, seen = answer_when_asked(state, suffix, b"exactly this\x00")
        got, out, err = form.call("ADD", config(state))
        thread.join()
    assert (got, out, err) == (code, b"exactly this\x00", b"")
    assert os.listdir(state / "results") == []
    body = json.loads(seen["raw"])
    assert body["env"]["CNI_NETNS"] == "/run/netns/x"
    assert json.loads(body["config"])["name"] == "n"
    assert body["deadline"] - body["made"] == 30_000_000_000


def test_takes_away_an_intent_it_was_answered_to(form, state):
    """A daemon killed between its answer and its unlink would otherwise leave the call to be executed once more."""
    with HeldLock(state):
        thread, _ = answer_when_asked(state, ".result", b"{}", unlink=False)
        form.call("ADD", config(state))
        thread.join()
    assert os.listdir(state / "intents") == []


@pytest.mark.parametrize("name", ["headcni", "headcni-ipam"])
def test_it_says_by_which_name_it_was_called(form, state, name):
    (state / "any where").mkdir()
    named = form.named(state / "any where" / name)
    with HeldLock(state):
        thread, seen = answer_when_asked(state, ".result", b"{}")
        named.call("ADD", config(state))
        thread.join()
    assert json.loads(seen["raw"])["plugin"] == name
    assert f"CNI plugin {name} ".encode() in named.call(None, env={})[2]


@pytest.mark.parametrize(
    "conf",
    [b"\xff\xfe not utf-8", b'{"a": "line\\nbreak",\n\t"b": "\xc3\xa9"}', b"", b"{{{", b'{"a": "' + b"x" * 15 * MIB],
    ids=["binary", "text", "empty", "broken", "big"],
)
def test_any_bytes_arrive_as_they_were(form, state, conf):
    """Also what is no JSON at all: it is the daemon's to answer, in the default directory, which here is ours."""
    ours = f"mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/headcni && mount --bind {state} /var/lib/headcni"
    moved = form.behind("unshare", "--mount", "sh", "-c", f'{ours} && exec "$@"', "sh")
    with HeldLock(state):
        thread, seen = answer_when_asked(state, ".result", b"")
        code, _, err = moved.call("ADD", conf, env={**ENV, "PATH": os.environ["PATH"]})
        thread.join()
    assert code == 0, err
    body = json.loads(seen["raw"])
    carried = bytes.fromhex(body["config_hex"]) if "config_hex" in body else body["config"].encode()
    assert carried == conf


def test_a_configuration_without_end_is_refused(form, state):
    code, out, _ = form.call("ADD", config(state, padding="x" * 17 * MIB))
    assert (code, error(out)["code"]) == (1, 7)
    assert "16 MiB" in error(out)["msg"]


def test_a_big_answer_is_printed_whole(form, state):
    content = os.urandom(3 * MIB)
    with HeldLock(state):
        thread, _ = answer_when_asked(state, ".result", content)
        assert form.call("ADD", config(state))[:2] == (0, content)
        thread.join()


def test_a_late_answer_is_waited_for(form, state):
    """Later than it looks at the files by itself, and without a bell that rings."""
    with HeldLock(state):
        process = form.start("ADD")
        process.stdin.write(config(state))
        process.stdin.close()
        process.stdin = None
        (name,) = wait_for_intent(state)
        time.sleep(0.5)
        assert process.poll() is None
        answer(state, name, ".result", b"late")
        assert process.communicate(timeout=10) == (b"late", b"")
    assert process.returncode == 0


def test_twenty_at_once_get_each_its_own_answer(form, state):
    with HeldLock(state):
        started = [form.start("ADD", {**ENV, "CNI_CONTAINERID": f"box{n}"}) for n in range(20)]
        for process in started:
            process.stdin.write(config(state))
            process.stdin.close()
            process.stdin = None
        for name in wait_for_intent(state, 20):
            container = name.partition("-")[2].partition("@")[0]
            answer(state, name, ".result", container.encode())
            (state / "intents" / name).unlink()
        assert [each.communicate(timeout=20)[0] for each in started] == [f"box{n}".encode() for n in range(20)]
    assert left(state) == [[], [], []]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_while_waiting_it_leaves_an_intent_that_expires(form, state, number):
    process = form.start("ADD")
    process.stdin.write(config(state, timeout_seconds=5))
    process.stdin.close()
    process.stdin = None
    (name,) = wait_for_intent(state)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == -number
    assert json.loads((state / "intents" / name).read_bytes())["deadline"] < time.monotonic_ns() + 5_000_000_000


def test_a_runtime_that_does_not_listen_any_more_does_not_kill_it(form, state):
    """By SIGPIPE it would die between the answer and the tidying up."""
    reading, writing = os.pipe()
    os.close(reading)
    with HeldLock(state):
        thread, _ = answer_when_asked(state, ".result", b"{}", unlink=False)
        code, _, err = form.call("ADD", config(state), stdout=writing)
        thread.join()
    os.close(writing)
    assert code == 1
    assert b"BrokenPipeError" in err
    assert left(state) == [[], [], []]


def test_a_delete_is_done_when_its_intent_is_gone(form, state):
    with HeldLock(state):
        process = form.start("DEL")
        process.stdin.write(config(state))
        process.stdin.close()
        process.stdin = None
        (name,) = wait_for_intent(state)
        (state / "intents" / name).unlink()
        assert process.communicate(timeout=10) == (b"", b"")
    assert process.returncode == 0


def test_an_empty_error_means_that_the_daemon_had_no_space(form, state):
    with HeldLock(state):
        thread, _ = answer_when_asked(state, ".error", b"")
        code, out, _ = form.call("ADD", config(state))
        thread.join()
    assert (code, error(out)["code"]) == (1, 5)


# --- STATUS


def status_file(state, code, msg="", details="", age=0.0):
    body = {"format": "headcni/status/1", "not_ready": [{"cni_code": 7}], "cni_code": code, "cni_msg": msg}
    beat = time.monotonic_ns() - int(age * 1e9)
    (state / "status.json").write_text(json.dumps({**body, "cni_details": details, "cni_beat": max(0, beat)}))


def test_status_is_silent_when_ready(form, state):
    status_file(state, 0)
    with HeldLock(state):
        assert form.call("STATUS", config(state), {})[:2] == (0, b"")
    assert os.listdir(state / "intents") == []


def test_status_passes_the_daemons_reason_on(form, state):
    status_file(state, 50, 'pool "a" is empty', "delete pods")
    with HeldLock(state):
        code, out, _ = form.call("STATUS", config(state), {})
    body = error(out)
    assert (code, body["code"], body["msg"], body["details"]) == (1, 50, 'pool "a" is empty', "delete pods")


def test_status_without_a_daemon_is_50(form, state):
    status_file(state, 0)
    assert error(form.call("STATUS", config(state), {})[1])["code"] == 50


def test_status_of_a_daemon_that_renewed_it_lately_is_silent(form, state):
    status_file(state, 0, age=plugin.STILL_SECONDS - 5)
    with HeldLock(state):
        assert form.call("STATUS", config(state), {})[:2] == (0, b"")


@pytest.mark.skipif(time.monotonic() < 100, reason="this machine has just booted")
def test_status_of_a_daemon_that_hangs_is_50_and_says_since_when(form, state):
    status_file(state, 0, age=plugin.STILL_SECONDS + 5)
    with HeldLock(state):
        code, out, _ = form.call("STATUS", config(state), {})
    body = error(out)
    assert (code, body["code"]) == (1, 50)
    assert body["msg"].startswith("the HeadCNI daemon has not moved for 4")
    assert "restart it" in body["details"]


def test_a_status_of_an_earlier_boot_is_not_this_daemons(form, state):
    status_file(state, 0, age=-60)
    with HeldLock(state):
        body = error(form.call("STATUS", config(state), {})[1])
    assert (body["code"], body["msg"]) == (50, "the HeadCNI daemon is starting")


def test_a_status_without_a_beat_is_not_believed(form, state):
    (state / "status.json").write_text('{"format": "headcni/status/1", "cni_code": 0}')
    with HeldLock(state):
        assert error(form.call("STATUS", config(state), {})[1])["code"] == 50


def test_status_before_1_1_0_is_an_incompatible_version(form, state):
    _, out, _ = form.call("STATUS", config(state, cniVersion="1.0.0"), {})
    assert error(out)["code"] == 1
