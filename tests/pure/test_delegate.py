"""Running another IPAM plugin, with small scripts in its place."""

import asyncio
import json
import os
import time

import pytest

from cni.result import Dns, Ip, Result, Route
from cni.spec import Code, Refusal, Verb
from reconciler.ipam.delegate import UnknownVerb, find, read_result, run

SECRET = b'{"key": "do-not-quote-me"}'


@pytest.fixture
def plugin(tmp_path):
    """Writes a shell script called `fake` and runs it."""

    def call(script, verb=Verb.ADD, config=b"{}", env=None, within=10.0):
        path = tmp_path / "fake"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return asyncio.run(run(verb, "fake", config, {"CNI_PATH": f"/nonexistent:{tmp_path}", **(env or {})}, within))

    return call


def saying(answer, status=0):
    return f"cat <<'END'\n{answer if isinstance(answer, str) else json.dumps(answer)}\nEND\nexit {status}"


def gone(pid):
    """No such process, or only a zombie that its new parent has not reaped yet."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- finding the program


def test_the_first_directory_that_holds_the_program_wins(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fake").write_text("")
    (tmp_path / "b" / "fake").chmod(0o755)
    (tmp_path / "c" / "fake").chmod(0o755)
    path = ":".join(str(tmp_path / name) for name in ("a", "b", "c"))
    assert find("fake", path) == tmp_path / "b" / "fake"


def test_a_missing_program_is_refused_with_where_it_was_searched():
    refusal = find("fake", "/no/where:/else/where")
    assert refusal.code == Code.DELEGATE_FAILED
    assert refusal.msg == "IPAM plugin fake was not found"
    assert "searched /no/where, /else/where; install the program fake" in refusal.details


def test_an_empty_search_path_is_named():
    assert "CNI_PATH is empty" in find("fake", "").details


@pytest.mark.parametrize("name", ["", "..", "/bin/sh", "../sh", "a/b"])
def test_a_path_is_no_plugin_name(name):
    refusal = find(name, "/bin")
    assert refusal.code == Code.INVALID_CONFIGURATION
    assert repr(name) in refusal.msg


# --- what it is given


def test_the_plugin_gets_the_configuration_and_only_the_given_environment(plugin, tmp_path, monkeypatch):
    monkeypatch.setenv("LEAKED", "1")
    script = f"/bin/cat > {tmp_path}/config; /usr/bin/env > {tmp_path}/env"
    assert plugin(script, Verb.DEL, config=SECRET, env={"CNI_IFNAME": "eth0"}) == Result()
    assert (tmp_path / "config").read_bytes() == SECRET
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"CNI_PATH", "CNI_IFNAME", "CNI_COMMAND"}


def test_a_large_configuration_need_not_be_read(plugin):
    assert plugin("exit 0", Verb.DEL, config=b"x" * (4 << 20)) == Result()


# --- what it answers


@pytest.mark.parametrize(
    "answer",
    [
        {
            "cniVersion": "0.3.1",
            "ips": [{"version": "4", "address": "10.1.0.5/24", "gateway": "10.1.0.1"}],
            "dns": {},
        },
        {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/24", "gateway": "10.1.0.1"}]},
        {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}], "routes": None},
        {
            "cniVersion": "1.1.0",
            "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}],
            "routes": [],
            "dns": None,
        },
    ],
    ids=lambda answer: answer["cniVersion"],
)
def test_the_result_of_each_version_is_read(plugin, answer):
    assert plugin(saying(answer)) == Result(ips=(Ip("10.1.0.5/24", "10.1.0.1"),))


def test_all_of_a_result_is_read(plugin):
    answer = {
        "ips": [{"address": "10.1.0.5/24"}, {"address": "FD00::5/64", "gateway": "fd00::1"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1280}, {"dst": "fd00:1::/64"}],
        "dns": {"nameservers": ["10.96.0.10"], "domain": "x", "search": ["a", "b"], "options": ["ndots:5"]},
    }
    assert plugin(saying(answer)) == Result(
        ips=(Ip("10.1.0.5/24"), Ip("fd00::5/64", "fd00::1")),
        routes=(Route("0.0.0.0/0", "10.1.0.1", mtu=1280), Route("fd00:1::/64")),
        dns=Dns(("10.96.0.10",), "x", ("a", "b"), ("ndots:5",)),
    )


@pytest.mark.parametrize("verb", [Verb.DEL, Verb.CHECK, Verb.STATUS, Verb.GC])
def test_the_other_verbs_give_an_empty_result(plugin, verb):
    assert plugin(f'[ "$CNI_COMMAND" = {verb} ]', verb) == Result()


def test_the_plugins_own_error_is_passed_on(plugin):
    error = {"cniVersion": "1.0.0", "code": 117, "msg": "no IP addresses available", "details": "in range set"}
    assert plugin(saying(error, status=1)) == Refusal(117, "no IP addresses available", "in range set")


@pytest.mark.parametrize("verb", [Verb.STATUS, Verb.GC])
def test_a_verb_the_plugin_does_not_know_is_no_failure(plugin, verb):
    error = {"code": 4, "msg": f"unknown CNI_COMMAND: {verb}"}
    assert plugin(saying(error, status=1), verb) == UnknownVerb("fake", verb)


def test_another_error_of_the_same_code_is_a_failure(plugin):
    error = {"code": 4, "msg": "required env variables [CNI_NETNS] missing"}
    assert plugin(saying(error, status=1), Verb.STATUS) == Refusal(4, error["msg"])


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (b"hello", "unexpected character"),
        (b"[]", "the answer is not a JSON object"),
        (b"{}", "ips: no address was given"),
        (b'{"ips": {}}', "ips is not a list"),
        (b'{"ips": [7]}', "ips is not a JSON object"),
        (b'{"ips": [{"address": "10.1.0.5"}]}', "ips.address: '10.1.0.5' is no address with a prefix length"),
        (b'{"ips": [{"address": "10.1.0.5/99"}]}', "'10.1.0.5/99' does not appear to be"),
        (b'{"ips": [{"address": "10.1.0.5/24", "gateway": 7}]}', "'7' does not appear to be"),
        (b'{"ips": [{"address": "10.1.0.5/24"}], "routes": [{"gw": "10.1.0.1"}]}', "routes.dst: None is no network"),
        (b'{"ips": [{"address": "10.1.0.5/24"}], "routes": [{"dst": "x"}]}', "'x' does not appear to be"),
        (b'{"ips": [{"address": "10.1.0.5/24"}], "routes": [{"dst": "::/0", "mtu": "9"}]}', "routes.mtu: '9' is no"),
        (b'{"ips": [{"address": "10.1.0.5/24"}], "dns": {"search": [1]}}', "dns.search: not a list of text"),
        (b'{"ips": [{"address": "10.1.0.5/24"}], "dns": {"domain": 1}}', "dns.domain: 1 is no text"),
        (b" " * (1 << 21), "the answer is longer than 1048576 bytes"),
    ],
)
def test_an_answer_that_is_no_result_names_the_field(output, problem):
    with pytest.raises(ValueError) as error:
        read_result(output)
    assert problem in str(error.value)


def test_garbage_is_refused_and_quoted_in_part(plugin):
    refusal = plugin(saying("x" * 5000))
    assert refusal.code == Code.DELEGATE_FAILED
    assert "it printed '" + "x" * 200 + "'" in refusal.details


def test_a_failure_without_an_error_quotes_standard_error(plugin):
    refusal = plugin("echo broken library >&2; exit 127")
    assert refusal.code == Code.DELEGATE_FAILED
    assert refusal.msg == "IPAM plugin fake ended with status 127 and gave no CNI error"
    assert "broken library" in refusal.details


def test_death_by_a_signal_is_told(plugin):
    assert plugin("kill -SEGV $$").msg == "IPAM plugin fake ended by signal 11 and gave no CNI error"


def test_what_cannot_be_executed_is_refused(tmp_path):
    (tmp_path / "fake").write_bytes(b"\x7fELF for another machine")
    (tmp_path / "fake").chmod(0o755)
    refusal = asyncio.run(run(Verb.ADD, "fake", b"", {"CNI_PATH": str(tmp_path)}, 5))
    assert refusal.code == Code.DELEGATE_FAILED
    assert "Exec format error" in refusal.details


@pytest.mark.parametrize("output", ["hello", '{"code": 100}', ""])
def test_no_message_holds_the_configuration(plugin, output):
    assert "do-not-quote-me" not in str(plugin(saying(output, status=1), config=SECRET))


# --- when it does not end


def test_a_plugin_that_takes_too_long_is_killed_with_its_children_and_reaped(plugin, tmp_path):
    refusal = plugin(f"sleep 60 & echo $$ $! > {tmp_path}/pids; wait", within=0.3)
    assert refusal.code == Code.DELEGATE_FAILED
    assert "did not end within 0.3 s" in refusal.msg
    parent, child = (tmp_path / "pids").read_text().split()
    assert not os.path.exists(f"/proc/{parent}")
    wait_for(lambda: gone(child))


def test_a_child_left_behind_does_not_delay_the_answer(plugin, tmp_path):
    answer = saying({"ips": [{"address": "10.1.0.5/24"}]})
    began = time.monotonic()
    result = plugin(f"sleep 60 & echo $! > {tmp_path}/pid\n{answer}")
    assert isinstance(result, Result)
    assert time.monotonic() - began < 5
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_caller_that_gives_up_leaves_no_process(tmp_path):
    path = tmp_path / "fake"
    path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    path.chmod(0o755)
    env = {"CNI_PATH": str(tmp_path), "PATH": os.environ["PATH"]}

    async def give_up():
        task = asyncio.create_task(run(Verb.ADD, "fake", b"", env, 60))
        await asyncio.to_thread(wait_for, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_no_descriptor_is_left_open(plugin):
    before = len(os.listdir("/proc/self/fd"))
    plugin("exit 1")
    plugin("exec sleep 60", within=0.05)
    assert len(os.listdir("/proc/self/fd")) == before
