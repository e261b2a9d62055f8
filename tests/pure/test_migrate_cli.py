"""`headcni migrate check` on nodes as Flannel leaves them, without a kernel and without an API."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from reconciler.operate import migrate
from reconciler.operate.cli import main

ROOT = Path(__file__).parents[2]
FLANNEL = ROOT / "fixtures" / "flannel"
CHART = ROOT / "deploy" / "chart" / "headcni"
NODES = ("vxlan", "dual-stack", "ipv6-only", "k3s", "canal")


@pytest.fixture
def check(capsys, monkeypatch):
    monkeypatch.setattr(migrate, "_with_kernel", lambda found, seen: found)  # tests/kernel has one

    def run(root, *argv):
        for name in ("NODE_POD_CIDR", "HEADCNI_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HEADCNI_HOST_ROOT", str(root))
        monkeypatch.setenv("NODE_NAME", "worker-1")
        code = main(["migrate", "check", "--kube", "off", *argv])
        out, err = capsys.readouterr()
        assert err == ""
        return code, out

    return run


def told(check, root, *argv):
    code, out = check(root, *argv, "-o", "json")
    data = json.loads(out)
    assert data["possible"] is (code == 0)
    return code, data


@pytest.mark.parametrize(("kind", "code"), list(zip(NODES, (0, 0, 1, 0, 1), strict=True)))
def test_the_exit_code_says_whether_it_can_begin(check, kind, code):
    assert check(FLANNEL / kind)[0] == code


def test_everything_as_data(check):
    code, data = told(check, FLANNEL / "vxlan")
    assert code == 0
    assert data["flannel"] == {
        "backend": "vxlan",
        "networks": ["10.244.0.0/16"],
        "mtu": 1450,
        "masquerade": True,
        "configured_by": f"{FLANNEL}/vxlan/etc/kube-flannel/net-conf.json",
    }
    here = data["here"]
    assert (here["node"], here["pod_cidrs"]) == ("worker-1", ["10.244.1.0/24"])
    assert here["reserved"] == ["10.244.1.2", "10.244.1.3", "10.244.1.10"]
    assert [each["command"] for each in here["leftovers"]] == [
        "mv /etc/cni/net.d/10-flannel.conflist /etc/cni/net.d/10-flannel.conflist.disabled",
        "rm -r /run/flannel",
        "rm -r /var/lib/cni/networks/cbr0",
    ]
    assert [each["name"] for each in data["nodes"]] == ["worker-1"]
    assert yaml.safe_load(check(FLANNEL / "vxlan", "-o", "yaml")[1]) == data


def test_the_network_configuration_is_looked_for_where_the_runtime_has_it(check, tmp_path):
    root = tmp_path / "node"
    shutil.copytree(FLANNEL / "vxlan", root)
    (root / "srv").mkdir()
    (root / "etc/cni/net.d").rename(root / "srv/net.d")
    (tmp_path / "config.yaml").write_text("cni: {confDir: /srv/net.d}")
    moved = "mv /srv/net.d/10-flannel.conflist /srv/net.d/10-flannel.conflist.disabled"
    for argv, there in (((), False), (("--config", str(tmp_path / "config.yaml")), True)):
        commands = [each["command"] for each in told(check, root, *argv)[1]["here"]["leftovers"]]
        assert (moved in commands) is there


@pytest.mark.parametrize("kind", NODES)
def test_the_chart_takes_the_values_as_they_are_printed(check, kind):
    _, out = check(FLANNEL / kind)
    printed = yaml.safe_load(out.partition("VALUES FOR THE CHART\n")[2].partition("\n\n")[0])
    assert printed == told(check, FLANNEL / kind)[1]["values"]
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert list(jsonschema.Draft7Validator(schema).iter_errors(printed)) == []


@pytest.mark.parametrize("kind", NODES)
def test_words_fit_a_terminal_and_commands_are_never_broken(check, kind):
    _, out = check(FLANNEL / kind)
    wide = [line for line in out.splitlines() if len(line) > 100]
    assert [line for line in wide if not line.startswith("    ")] == []
    _, data = told(check, FLANNEL / kind)
    commands = [each["command"] for each in data["here"]["leftovers"]]
    commands += [command for step in data["steps"] for command in step["commands"]]
    assert [each for each in commands if f"    {each}" not in out.splitlines()] == []


def test_the_first_line_is_the_answer(check):
    assert check(FLANNEL / "vxlan")[1].splitlines()[0].split() == ["from", "Flannel", "can", "begin"]
    first = check(FLANNEL / "ipv6-only")[1].splitlines()[0]
    assert first.endswith("not yet: 1 thing must be settled first")


def test_a_node_that_never_saw_flannel(check, tmp_path):
    code, out = check(tmp_path)
    assert code == 1
    assert "Flannel is not in use" in out
    assert "THE ORDER" not in out


def test_files_that_are_named_are_read_instead(check, tmp_path):
    env, conf = FLANNEL / "vxlan/run/flannel/subnet.env", FLANNEL / "net-conf/host-gw.json"
    code, data = told(check, tmp_path, "--subnet-env", str(env), "--net-conf", str(conf))
    assert (code, data["flannel"]["backend"]) == (0, "host-gw")
    assert data["flannel"]["configured_by"] == str(conf)


@pytest.mark.parametrize("flag", ["--subnet-env", "--net-conf"])
def test_a_named_file_that_is_missing_is_told(check, tmp_path, flag):
    code, data = told(check, FLANNEL / "vxlan", flag, str(tmp_path / "gone"))
    assert code == 1
    assert f"{tmp_path}/gone does not exist" in data["reasons"][0]["what"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "FIFO"])
def test_something_that_is_no_file_is_told_and_waited_for_by_nobody(check, tmp_path, make):
    file = tmp_path / "run/flannel/subnet.env"
    file.parent.mkdir(parents=True)
    make(file)
    _, data = told(check, tmp_path)
    assert str(file) in data["reasons"][0]["what"]


def test_a_pre_shared_key_is_never_printed(check, tmp_path):
    for form in ("table", "wide", "json", "yaml"):
        assert (
            "placeholder" not in check(tmp_path, "--net-conf", str(FLANNEL / "net-conf/wireguard.json"), "-o", form)[1]
        )


def test_a_wrong_setting_is_told(capsys):
    assert main(["migrate", "check", "--kube", "off", "--pod-cidr", "10.244.1.7/24"]) == 1
    assert "write 10.244.1.0/24" in capsys.readouterr().err
