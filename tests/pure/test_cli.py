"""The operator's command on directories as a node leaves them: with a daemon, without, damaged, from the future."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from samples import BOOT, BORN, CONTAINER, STATUS, in_state, stuck

from reconciler import daemon
from reconciler.config import Config, load
from reconciler.operate import output
from reconciler.operate.cli import main
from reconciler.operate.find import matches, parse_time
from reconciler.operate.status import encode_status
from statemachine.attachment import Pod, State, encode, file_name
from statemachine.history import history_name

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
WEB0 = in_state(State.ADVERTISED)
COREDNS = replace(stuck(), container="ab" * 32, pod=Pod("kube-system", "coredns-x2kzl", ""))
SERVES = replace(STATUS, ready=True, not_ready=(), warnings=())
OLD_WEB0 = in_state(State.TORN_DOWN, container="c9" * 32)


class Node:
    """A state directory, and the command that looks at it at a fixed time."""

    def __init__(self, root, capsys):
        self.root = root
        self._capsys = capsys
        for name in ("attachments", "history", "intents", "results", "quarantine"):
            (root / name).mkdir()

    def put(self, *records):
        for record in records:
            closed = record.state is State.TORN_DOWN
            name = f"history/{history_name(record)}" if closed else f"attachments/{file_name(record.key)}"
            (self.root / name).write_bytes(encode(record))

    def write(self, name, content):
        (self.root / name).write_bytes(content)

    def run(self, *argv):
        code = main(["--state-dir", str(self.root), *argv])
        out, err = self._capsys.readouterr()
        return code, out, err

    def data(self, *argv):
        code, out, err = self.run(*argv, "-o", "json")
        assert (code, err) == (0, "")
        return orjson.loads(out)


@pytest.fixture(autouse=True)
def _noon(monkeypatch):
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "UTC")
        time.tzset()
        monkeypatch.setattr("reconciler.operate.cli.time", types.SimpleNamespace(time=lambda: BORN + 7200))
        yield
    time.tzset()


@pytest.fixture
def node(tmp_path, capsys):
    return Node(tmp_path, capsys)


@pytest.fixture
def lock(node):
    fd = os.open(node.root / "daemon.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield
    os.close(fd)


# --- pods


def test_pods_shows_what_holds_an_address_and_what_hinders_it(node):
    node.put(WEB0, COREDNS, OLD_WEB0)
    code, out, _ = node.run("pods")
    title, first, second = out.splitlines()
    assert code == 0
    assert title.split() == ["POD", "ADDRESS", "STATE", "AGE", "CONTAINER", "PROBLEM"]
    assert first.split() == ["default/web-0", "10.244.1.7", "+1", "advertised", "2h", CONTAINER[:12], "-"]
    assert "advertise: RTM" in second


@pytest.mark.parametrize("verb", ["pods", "history", "replay"])
def test_no_table_is_wider_than_a_hundred_columns(node, verb):
    long = replace(COREDNS, pod=Pod("a-namespace-with-a-long-name", "a-deployment-with-a-long-name-6799fbcd5-x2kzl"))
    node.put(WEB0, long, OLD_WEB0)
    node.write("attachments/bad@eth0.json", b"{")
    _, out, _ = node.run(verb, *([str(node.root)] if verb == "replay" else []))
    assert max(map(len, out.splitlines())) <= 100


def test_wide_cuts_nothing(node):
    node.put(COREDNS)
    _, out, _ = node.run("pods", "-o", "wide")
    assert "Network is unreachable" in out
    assert "ab" * 32 in out
    assert "fd00:244:1::7" in out


def test_json_and_yaml_are_the_records_as_they_are_on_disk(node):
    import yaml

    node.put(WEB0)
    assert node.data("pods") == {"attachments": [orjson.loads(encode(WEB0))], "unreadable": []}
    _, out, _ = node.run("pods", "-o", "yaml")
    assert yaml.safe_load(out)["attachments"][0]["addresses"][0]["address"] == "10.244.1.7/32"


def test_options_may_stand_before_and_after_the_verb(node, capsys):
    node.put(WEB0)
    assert node.run("-o", "json", "pods") == node.run("pods", "-o", "json")
    assert main(["pods", "--state-dir", str(node.root)]) == 0
    assert "web-0" in capsys.readouterr().out


def test_the_environment_names_the_directory_too(node, monkeypatch, capsys):
    node.put(WEB0)
    monkeypatch.setenv("HEADCNI_STATE_DIR", str(node.root))
    assert main(["pods"]) == 0
    assert "web-0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "why", "newer"),
    [
        (b"{", "not JSON", False),
        (b"", "empty file", False),
        (b'{"format": "headcni/attachment/2"}', "knows up to", True),
    ],
)
def test_files_that_cannot_be_read_are_listed_and_stop_nothing(node, content, why, newer):
    node.put(WEB0)
    node.write("attachments/bad@eth0.json", content)
    data = node.data("pods")
    assert len(data["attachments"]) == 1
    (unreadable,) = data["unreadable"]
    assert (unreadable["file"], unreadable["newer"]) == ("attachments/bad@eth0.json", newer)
    assert why in unreadable["why"]
    assert "attachments/bad@eth0.json" in node.run("pods")[1]


def test_a_directory_in_place_of_a_record_is_listed(node):
    (node.root / "attachments" / "dir@eth0.json").mkdir()
    assert node.data("pods")["unreadable"][0]["why"] == "Is a directory"


def test_a_file_that_vanishes_meanwhile_is_no_error(node):
    (node.root / "attachments" / "gone@eth0.json").symlink_to("nowhere")
    assert node.data("pods") == {"attachments": [], "unreadable": []}


def test_no_pods(node):
    assert node.run("pods") == (0, "no attachments\n", "")


def test_reading_neither_writes_nor_locks(node):
    node.put(WEB0, OLD_WEB0)
    before = sorted(str(path) for path in node.root.rglob("*"))
    for verb in (["status"], ["pods"], ["history"], ["show", "web-0"], ["replay", str(node.root)]):
        node.run(*verb)
    assert sorted(str(path) for path in node.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("root", "why"),
    [("none", "No such file or directory"), ("file", "Not a directory"), ("foreign", "no HeadCNI state")],
)
def test_a_directory_that_is_none_of_ours(tmp_path, capsys, root, why):
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("")
    assert main(["--state-dir", str(tmp_path / root), "pods"]) == 1
    err = capsys.readouterr().err
    assert why in err
    assert "--state-dir" in err


# --- show


@pytest.mark.parametrize(
    "query",
    ["web-0", "default/web-0", CONTAINER, CONTAINER[:3], f"{CONTAINER}@eth0", "10.244.1.7", "fd00:244:1:0::7"],
)
def test_an_attachment_is_found_by_each_of_its_names(query):
    assert matches(WEB0, query)


@pytest.mark.parametrize("query", ["web", "other/web-0", "kube-system/web-0", "10.244.1.70", "fd00::7", "eth0"])
def test_and_by_no_other(query):
    assert not matches(WEB0, query)


def test_show_tells_everything(node):
    node.put(COREDNS)
    code, out, _ = node.run("show", "coredns-x2kzl")
    assert code == 0
    for detail in (
        "kube-system/coredns-x2kzl",
        "wired since 2026-11-21T11:32:34+00:00 (1h59m ago), goal advertised",
        "advertise: RTM_NEWROUTE was refused: Network is unreachable (attempt 3, next try is due)",
        "10.244.2.0/24 via 192.0.2.2",
        "the message names the request",
        "10.244.1.7/32 gateway 10.244.1.1, from 10.244.1.0/24",
        "hcni5d41402abc4b (index 12, 0a:58:00:00:00:01) to eth0",
        "/run/netns/cni-3f1a (4:4026532611)",
        "2026-11-21T11:32:34.260+00:00  1.5 ms  allocated  allocate",
    ):
        assert detail in out


def test_a_code_of_another_plugin_needs_no_remedy(node):
    node.put(replace(COREDNS, problem=replace(COREDNS.problem, code=999)))
    code, out, _ = node.run("show", "coredns-x2kzl")
    assert code == 0
    assert "cure" not in out


def test_the_living_one_is_meant_when_both_live_and_closed_match(node):
    node.put(WEB0, OLD_WEB0)
    assert [each["container"] for each in node.data("show", "web-0")["attachments"]] == [CONTAINER]


def test_a_closed_one_is_found_when_none_lives(node):
    node.put(OLD_WEB0)
    code, out, _ = node.run("show", "10.244.1.7")
    assert code == 0
    assert "torn-down since" in out
    assert "DEL" in out


def test_both_interfaces_of_one_container_are_shown(node):
    node.put(WEB0, replace(WEB0, ifname="net1"))
    code, out, _ = node.run("show", "web-0")
    assert code == 0
    assert "interface net1" in out


@pytest.mark.parametrize(
    "records", [(WEB0, replace(COREDNS, pod=WEB0.pod)), (OLD_WEB0, replace(OLD_WEB0, container="d0"))]
)
def test_an_ambiguous_name_lists_what_it_may_mean(node, records):
    node.put(*records)
    code, out, err = node.run("show", "web-0")
    assert code == 1
    assert all(record.container[:12] in out for record in records)
    assert "2 attachments match 'web-0'" in err
    assert "container id" in err


def test_nobody_of_that_name(node):
    code, out, err = node.run("show", "web-9")
    assert (code, out) == (1, "")
    assert "no attachment matches 'web-9'\n`headcni pods` lists" in err


# --- history


def test_who_held_an_address_then(node):
    successor = replace(in_state(State.ADVERTISED), created=BORN + 4000)
    visits = tuple(replace(visit, at=visit.at + 4000) for visit in successor.history)
    node.put(OLD_WEB0, replace(successor, history=visits))

    def held(at):
        found = node.data("history", "10.244.1.7", "--at", at)["attachments"]
        return [each["container"][:2] for each in found]

    assert held("2026-11-21T11:32:30") == []
    assert held("2026-11-21T11:40") == ["c9"]
    assert held("2026-11-21T12:32:34") == ["c9"]
    assert held("2026-11-21T12:32:35") == []
    assert held("2026-11-21T13:30:00+00:00") == [CONTAINER[:2]]
    assert (
        "nobody held 10.244.1.7 at 2026-11-21T12:33:00+00:00" in node.run("history", "10.244.1.7", "--at", "12:33")[1]
    )


def test_history_goes_from_old_to_new_and_says_what_ended_each(node):
    node.put(WEB0, OLD_WEB0)
    _, out, _ = node.run("history", "web-0")
    _, first, second = out.splitlines()
    assert first.split()[-2:] == ["c9c9c9c9c9c9", "DEL"]
    assert second.endswith("advertised now")


@pytest.mark.parametrize("text", ["noon", "2026-13-01", "25:00", "2026-11-21 at ten"])
def test_what_is_no_time(node, text):
    code, _, err = node.run("history", "--at", text)
    assert code == 1
    assert "write 03:12" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("11:32:34", BORN - 0.25), ("13:32:35", BORN - 0.25 + 7201 - 86400), ("2026-11-21T12:32:34+01:00", BORN - 0.25)],
)
def test_a_time_of_day_is_the_latest_that_has_passed(text, expected):
    assert parse_time(text, BORN + 7200) == pytest.approx(expected)


# --- status


def test_status_of_a_node_that_serves(node, lock):
    node.put(WEB0)
    node.write("status.json", encode_status(replace(SERVES, cni_beat=time.monotonic_ns())))
    code, out, _ = node.run("status")
    assert code == 0
    assert "runs, version 0.1.0, pid 4711, for 2h1m" in out
    assert "ready       yes" in out
    assert "kubernetes  Node worker-1: True HeadCNIIsNotReady, by https://192.0.2.1:6443" in out
    assert "1 (1 advertised)" in out
    assert out.splitlines()[-1].split() == ["10.244.1.0/24", "253", "253", "0", "3", "0"]


@pytest.mark.skipif(time.monotonic() < 100, reason="this machine has just booted")
def test_status_of_a_daemon_that_hangs(node, lock):
    node.write("status.json", encode_status(replace(SERVES, cni_beat=time.monotonic_ns() - 60 * 10**9)))
    code, out, _ = node.run("status")
    assert code == 1
    assert "no: the HeadCNI daemon has not moved for 60 s; " in out


def test_status_says_why_not_and_what_to_do(node, lock):
    node.write("status.json", encode_status(replace(STATUS, cni_beat=time.monotonic_ns())))
    code, out, _ = node.run("status")
    assert code == 1
    assert "pool 10.244.1.0/24 is empty: 253 of 253 addresses are held; delete pods" in out


def test_status_counts_from_the_files_although_no_daemon_runs(node):
    node.put(WEB0, COREDNS)
    node.write("status.json", encode_status(replace(STATUS, ready=True)))
    code, out, _ = node.run("status")
    assert code == 1
    assert "none runs on this node; the last one wrote 2026-11-21T11:32:39+00:00" in out
    assert "2 (1 wired, 1 advertised); 1 with a problem" in out


def test_status_while_the_daemon_starts(node, lock):
    code, out, _ = node.run("status")
    assert code == 1
    assert "has not written its status yet" in out


@pytest.mark.parametrize(
    "content", [b"{", b'{"format": "headcni/status/2"}', b'{"format": "headcni/status/1", "x": 1}']
)
def test_a_status_that_cannot_be_read_is_listed(node, lock, content):
    node.write("status.json", content)
    code, out, _ = node.run("status")
    assert code == 1
    assert "status.json" in out


def test_quarantine_is_shown_with_its_reasons(node):
    node.write("quarantine/x@eth0.json", b"{")
    node.write("quarantine/x@eth0.json.reason", b"not JSON\n")
    node.write("quarantine/y@eth0.json", b"{")
    _, out, _ = node.run("status")
    assert "quarantine/x@eth0.json: not JSON\n" in out
    assert "quarantine/y@eth0.json: no reason is noted\n" in out


def test_status_as_data(node):
    node.write("status.json", encode_status(STATUS))
    code, out, _ = node.run("status", "-o", "json")
    data = orjson.loads(out)
    assert code == 1
    assert (data["daemon_lives"], data["ready"], data["counts"], data["intents"]) == (False, False, {}, 0)
    assert data["status"]["cni_code"] == 50


# --- replay


def plan(node, *argv):
    return [(row["subject"], row["is"], row["then"]) for row in node.data("replay", str(node.root), *argv)["plan"]]


def test_replay_tells_what_a_daemon_would_do_with_each_file(node):
    half = in_state(State.ALLOCATED, container="d0" * 32)
    waiting = in_state(State.ALLOCATED)
    node.put(half, waiting, COREDNS, in_state(State.TEARING_DOWN, container="e0" * 32))
    node.write("attachments/bad@eth0.json", b"{")
    node.write("attachments/new@eth0.json", b'{"format": "headcni/attachment/2"}')
    node.write(f"intents/00000003600000000000.1-{CONTAINER}@eth0.ADD.json", (GOLDEN / "intent-1-add.json").read_bytes())
    node.write("intents/00000003610000000000.1-f0@eth0.DEL.json", b"")
    node.write("intents/00000003500000000000.1-f1@eth0.DEL.json", b"")
    node.write("results/00000003500000000000.1-f1@eth0.result", b"")
    told = plan(node)
    assert told[0][2].startswith("moves it to quarantine: not JSON")
    assert told[1][2].startswith("leaves it alone: format headcni/attachment/2")
    assert told[2:] == [
        (f"{CONTAINER}@eth0", "allocated", "keeps it for the ADD that waits"),
        (COREDNS.key, "wired", "goes on: will advertise"),
        (half.key, "allocated", "will tear down: the ADD that made it is gone"),
        ("e0" * 32 + "@eth0", "tearing-down", "goes on: will tear down"),
        ("f1@eth0", "DEL", "is removed: it was answered before"),
        (f"{CONTAINER}@eth0", "ADD", "is executed"),
        ("f0@eth0", "DEL", "is executed"),
    ]


def test_replay_after_a_reboot_tears_down_and_discards(node):
    node.put(WEB0)
    node.write(f"intents/00000003600000000000.1-{CONTAINER}@eth0.ADD.json", (GOLDEN / "intent-1-add.json").read_bytes())
    assert plan(node, "--boot-id", "other") == [
        (WEB0.key, "advertised", f"will tear down: made in another boot ({BOOT})"),
        (WEB0.key, "ADD", "is discarded: its deadline has passed"),
    ]


def test_replay_of_a_torn_down_record_files_it(node):
    node.write(f"attachments/{OLD_WEB0.key}.json", encode(OLD_WEB0))
    assert plan(node) == [(OLD_WEB0.key, "torn-down", "goes on: will file it in the history")]


def test_replay_takes_the_latest_boot_in_the_directory_for_its_own(node):
    node.put(replace(WEB0, boot_id="old", created=BORN - 1), COREDNS)
    assert [then for _, _, then in plan(node)] == [
        "will tear down: made in another boot (old)",
        "goes on: will advertise",
    ]


def test_replay_of_nothing(node):
    assert node.run("replay", str(node.root))[1] == "nothing to do: no records, no intents\n"


# --- config and daemon


def test_config_shows_each_value_and_its_origin(capsys, monkeypatch):
    monkeypatch.setenv("HEADCNI_MTU", "1400")
    assert main(["config", "--log-level", "debug", "--no-masquerade", "--pod-cidr", "10.244.1.0/24"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["network.mtu"] == ["1400", "environment", "HEADCNI_MTU"]
    assert rows["logLevel"] == ["debug", "flag", "--log-level"]
    assert rows["network.masquerade"] == ["false", "flag", "--masquerade"]
    assert rows["network.podCIDR.nodeLocal"] == ["10.244.1.0/24", "flag", "--pod-cidr"]
    assert rows["stateDir"] == ["/var/lib/headcni", "default"]


def test_config_as_data(capsys):
    assert main(["config", "-o", "json", "--state-dir", "/tmp/x"]) == 0
    data = orjson.loads(capsys.readouterr().out)
    assert data["stateDir"] == {"value": "/tmp/x", "origin": "flag --state-dir"}
    assert data["network.podCIDR.base"]["value"] == ["10.244.0.0/16"]
    assert data["network.masquerade"]["value"] is True


def test_config_check(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("logLevel: info\nnetwork: {podCIDR: {nodeLocal: 10.9.0.0/24}}\n")
    assert main(["config", "check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{file}: valid\n"
    assert "warning: network.podCIDR.nodeLocal" in err


def test_config_check_tells_every_problem(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("logLevel: loud\nmetrics: {prot: 1}\n")
    assert main(["config", "check", str(file)]) == 1
    err = capsys.readouterr().err
    assert "2 problems" in err
    assert "logLevel = loud" in err
    assert "did you mean metrics.port?" in err


def test_daemon_gets_its_configuration_and_a_way_to_read_it_again(tmp_path, monkeypatch):
    file = tmp_path / "c.yaml"
    file.write_text("logLevel: info\n")
    seen = []

    def run(config, reload):
        seen.append(config)
        file.write_text("logLevel: debug\n")
        seen.append(reload())
        file.write_text("logLevel: loud\n")
        seen.append(reload())
        return 7

    monkeypatch.setitem(sys.modules, "reconciler.daemon", types.SimpleNamespace(run=run))
    monkeypatch.setattr("reconciler.daemon", types.SimpleNamespace(run=run), raising=False)
    levels = []
    fake_log = types.SimpleNamespace(setup=levels.append)
    monkeypatch.setitem(sys.modules, "reconciler.operate.log", fake_log)
    monkeypatch.setattr("reconciler.operate.log", fake_log, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert main(["daemon", "--config", str(file), "--metrics-port", "0"]) == 7
    assert levels == ["info"]
    assert [c.log_level for c in seen[:2]] == ["info", "debug"]
    assert isinstance(seen[0], Config)
    assert seen[0].metrics_port == 0
    assert seen[2][0].key == "logLevel"


def test_daemon_with_a_wrong_configuration_does_not_start(capsys):
    assert main(["daemon", "--mtu", "12", "--kube", "maybe"]) == 1
    err = capsys.readouterr().err
    assert "network.mtu = 12 (from flag --mtu)" in err
    assert "kube.mode = maybe (from flag --kube): is unknown" in err


@pytest.mark.parametrize("verb", ["daemon", "uninstall"])
def test_what_changes_the_node_needs_root_and_says_so(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main([verb, "--state-dir", str(tmp_path / "state")]) == 1
    assert "only root can change links" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


@pytest.mark.expects_errors
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_state_directory_that_cannot_be_is_one_clear_line(place, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    config = load({"stateDir": str(tmp_path / place)}, {}, None)
    assert isinstance(config, Config)
    assert daemon.run(config, lambda: config) == 1
    [line] = [record.getMessage() for record in caplog.records]
    assert f"the state directory {tmp_path / place} cannot be used" in line
    assert "--state-dir" in line


# --- the command line


@pytest.mark.parametrize(
    "argv", [[], ["fly"], ["pods", "-o", "xml"], ["show"], ["config", "check"], ["pods", "-o", "dot"]]
)
def test_a_wrong_command_line_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert "usage: headcni" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "mermaid", "dot"])
def test_states_in_every_form(form, capsys):
    assert main(["states", "-o", form]) == 0
    out = capsys.readouterr().out
    assert "torn" in out
    assert out.count("lost") == 2


def test_a_reader_that_leaves_early_is_no_traceback(tmp_path):
    Node(tmp_path, None).put(WEB0)
    command = f"{sys.executable} -m reconciler.operate.cli --state-dir {tmp_path} pods -o json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stderr == ""


def test_reading_verbs_import_nothing_heavy(tmp_path):
    Node(tmp_path, None).put(WEB0)
    heavy = ("transitions", "pyroute2", "watchfiles", "yaml", "prometheus_client", "asyncio", "kubernetes")
    program = (
        "import sys; from reconciler.operate.cli import main; "
        f"main(['--state-dir', {str(tmp_path)!r}, 'pods']); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


# --- printing


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (192, "3m12s"),
        (3605, "1h"),
        (93600, "1d2h"),
        (90 * 86400, "90d"),
        (-5, "0s"),
    ],
)
def test_ages(seconds, text):
    assert output.age(1000.0, 1000.0 + seconds) == text


def test_a_time_to_come_says_in_how_long():
    assert output.instant_and_age(BORN + 60, BORN) == "2026-11-21T11:33:34+00:00 (in 1m)"


def test_a_table_cuts_the_widest_column_that_may_be_cut():
    text = output.table(("A", "B", "C"), [("a" * 60, "b" * 60, "c")], cut=("B",))
    line = text.splitlines()[1]
    assert len(line) == 100
    assert "a" * 60 in line
    assert "b…" in line


def test_numbers_are_aligned_to_the_right():
    assert output.table(("TOOK",), [("1.5 ms",), ("100 ms",)]).splitlines() == ["  TOOK", "1.5 ms", "100 ms"]
