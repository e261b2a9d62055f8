"""`headcni podcidr` and what `headcni status` says of the pod CIDR, with and without a daemon."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
import yaml
from samples import STATUS

from reconciler.config import load
from reconciler.node.clash import Others, beside
from reconciler.node.keeper import as_data
from reconciler.node.podcidr import judge
from reconciler.node.sources import look
from reconciler.operate.cli import main
from reconciler.operate.doctor.podcidr import examine
from reconciler.operate.status import encode_status

NODEFILES = Path(__file__).parents[2] / "fixtures" / "nodefiles"


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HEADCNI_HOST_ROOT", str(tmp_path / "host"))
    monkeypatch.setenv("NODE_NAME", "worker-1")
    monkeypatch.delenv("NODE_POD_CIDR", raising=False)
    monkeypatch.delenv("HEADCNI_CONFIG", raising=False)

    def call(*argv):
        code = main(["--state-dir", str(tmp_path / "state"), *argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def daemon(tmp_path):
    """One that lives, and has written its status."""
    state = tmp_path / "state"
    (state / "attachments").mkdir(parents=True)
    (state / "status.json").write_bytes(encode_status(STATUS))
    fd = os.open(state / "daemon.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield state
    os.close(fd)


def test_only_a_guess_is_exit_code_1(run):
    code, out, err = run("podcidr")
    assert (code, err) == (1, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "pod CIDR 10.244.61.0/24 (a GUESS)"
    assert "source default: default of network.podCIDR.base = 10.244.0.0/16" in lines
    assert any(line.startswith("warnings the pod CIDR 10.244.61.0/24 is only a GUESS") for line in lines)


def test_a_file_is_a_safe_answer_and_comes_first(run, monkeypatch):
    monkeypatch.setenv("HEADCNI_HOST_ROOT", str(NODEFILES / "k3s-agent"))
    code, out, err = run("podcidr", "-o", "wide")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith("THIS NODE'S"))) :]
    at = f"{NODEFILES}/k3s-agent/var/lib/rancher/k3s/agent/etc/node-worker-1.yaml: podCIDR"
    assert table[1].split() == ["*", "files", "10.42.3.0/24", *at.split(), "the", "first", "that", "can", "be", "used"]
    kinds = [line[2:].split()[0] for line in table[2:8]]
    assert kinds == ["configuration", "environment", "files", "api", "remembered", "share"]


@pytest.mark.parametrize("kind", [path.name for path in sorted(NODEFILES.iterdir()) if path.is_dir()])
def test_a_table_fits_the_terminal(run, monkeypatch, kind):
    monkeypatch.setenv("HEADCNI_HOST_ROOT", str(NODEFILES / kind))
    _, out, _ = run("podcidr")
    tables = out.partition("THIS NODE'S")[2].splitlines()
    assert max(map(len, tables[1:])) <= 100


def test_files_that_are_not_there_are_counted_not_listed(run):
    _, out, _ = run("podcidr")
    assert "and 13 files that are not there (-o wide)" in out
    assert "kube-controller-manager.yaml" not in out
    assert "kube-controller-manager.yaml" in run("podcidr", "-o", "wide")[1]


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_everything_as_data(run, form):
    code, out, _ = run("podcidr", "--pod-cidr", "10.244.1.0/24,fd00::/64", "-o", form)
    data = orjson.loads(out) if form == "json" else yaml.safe_load(out)
    assert code == 0
    assert (data["by_daemon"], data["guess"], data["source"]) == (False, False, "configuration")
    assert data["cidrs"] == ["10.244.1.0/24", "fd00::/64"]
    assert data["looked_at"] == "flag --pod-cidr: network.podCIDR.nodeLocal"
    assert set(data["findings"][0]) == {"about", "source", "looked_at", "found", "taken", "why", "code", "cure"}


def test_a_configuration_file_and_the_environment(run, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_POD_CIDR", "10.244.2.0/24")
    assert orjson.loads(run("podcidr", "-o", "json")[1])["source"] == "environment"
    file = tmp_path / "c.yaml"
    file.write_text("network: {podCIDR: {nodeLocal: 10.244.3.0/24}}")
    assert orjson.loads(run("podcidr", "--config", str(file), "-o", "json")[1])["cidrs"] == ["10.244.3.0/24"]


def test_a_wrong_configuration_is_told(run):
    code, out, err = run("podcidr", "--pod-cidr", "10.244.1.7/24")
    assert (code, out) == (1, "")
    assert "write 10.244.1.0/24" in err


def test_what_an_earlier_start_remembered(run, tmp_path):
    (tmp_path / "state").mkdir()
    golden = NODEFILES.parent / "golden" / "podcidr-1.json"
    (tmp_path / "state" / "podcidr.json").write_bytes(golden.read_bytes())
    code, out, _ = run("podcidr", "-o", "json")
    data = orjson.loads(out)
    assert (code, data["source"], data["cidrs"]) == (1, "remembered", ["10.42.61.0/24", "fd00:42:0:3d::/64"])


def test_a_damaged_memory_is_passed_over_and_stays(run, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "podcidr.json").write_bytes(b"{")
    code, out, err = run("podcidr")
    assert (code, "10.244.61.0/24" in out) == (1, True)
    assert "podcidr.json is passed over: not JSON" in err
    assert (tmp_path / "state" / "podcidr.json").read_bytes() == b"{"


def test_a_daemon_that_lives_gives_its_own_account(run, daemon):
    code, out, _ = run("podcidr", "-o", "json")
    data = orjson.loads(out)
    assert (code, data["by_daemon"], data["looked_at"]) == (0, True, "/var/lib/kubelet/config.yaml: podCIDR")
    assert data["as_of"] == STATUS.written
    assert "as of         the daemon," in run("podcidr")[1]


def test_a_configuration_that_is_named_is_looked_at_even_so(run, daemon):
    assert orjson.loads(run("podcidr", "--cluster-cidr", "10.9.0.0/16", "-o", "json")[1])["by_daemon"] is False


def test_a_change_is_shown(run, daemon):
    moving = {**STATUS.pod_cidr_source, "change": {"before": ["10.244.9.0/24"], "pods": 3}}
    (daemon / "status.json").write_bytes(encode_status(replace(STATUS, pod_cidr_source=moving)))
    assert "change        from 10.244.9.0/24; pods that still have it: 3" in run("podcidr")[1]
    assert "before: 10.244.9.0/24, pods that still have it: 3" in run("status")[1]


@pytest.mark.parametrize(("guess", "words"), [(False, ", from /var/lib/kubelet"), (True, ", a GUESS from /var/lib")])
def test_status_says_where_the_pod_cidr_comes_from(run, daemon, guess, words):
    told = replace(STATUS, pod_cidr_source={**STATUS.pod_cidr_source, "guess": guess})
    (daemon / "status.json").write_bytes(encode_status(told))
    assert f"10.244.1.0/24{words}" in run("status")[1]


def test_a_status_of_an_older_daemon_has_no_source(run, daemon):
    (daemon / "status.json").write_bytes(encode_status(replace(STATUS, pod_cidr_source={})))
    (line,) = [line for line in run("status")[1].splitlines() if line.startswith("pod CIDRs")]
    assert line.split() == ["pod", "CIDRs", "10.244.1.0/24"]
    assert orjson.loads(run("podcidr", "-o", "json")[1])["by_daemon"] is False


def test_a_clash_with_another_node_is_shown_by_every_command(run, daemon):
    config = load({"network.podCIDR.nodeLocal": "10.244.1.0/24"}, {}, None)
    others = Others(2, {ip_network("10.244.1.0/24"): "worker-2"})
    told = as_data(beside(judge(look(config, {})), others, config.node_prefix))
    warnings = tuple(told["warnings"])
    (daemon / "status.json").write_bytes(encode_status(replace(STATUS, pod_cidr_source=told, warnings=warnings)))
    clash = "this node's pod CIDR 10.244.1.0/24 overlaps 10.244.1.0/24 of node worker-2"
    assert f"[164] {clash}" in run("podcidr", "-o", "wide")[1]
    assert f"warnings      {clash}; correct one of the two" in run("podcidr")[1]
    assert f"{clash}; correct one of the two" in run("status")[1]
    (complaint,) = examine(SimpleNamespace(cidrs=told)).complaints
    assert (complaint.code, complaint.what, complaint.evidence) == (164, clash, "Node worker-2")
    assert complaint.cure.startswith("correct one of the two")
