"""Everything that is wrong, at once: on directories as a node leaves them, with a kernel that is given."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
import threading
import time
from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace

import orjson
import pytest
from mesh_views import NOT_APPROVED, SEEN, WELL, found, linked, refusal, state
from samples import BORN, STATUS, in_state, stuck

from cni.spec import Code, Refusal
from reconciler.kube.codes import Trouble as KubeTrouble
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Holds, Link
from reconciler.mesh.viewfile import encode_view
from reconciler.node import neighbours as around_us
from reconciler.node import overlap
from reconciler.node.dump import LinkAddress
from reconciler.node.firewall import Wall
from reconciler.node.kubeproxy import Mode, Proxy
from reconciler.node.listings import Chain
from reconciler.node.wish import Problem
from reconciler.operate import doctor
from reconciler.operate.cli import main
from reconciler.operate.doctor import complaint, neighbours, overlaps, page, plumbing, rounds
from reconciler.operate.doctor.complaint import Complaint, Examined, Level
from reconciler.operate.status import NotReady, encode_status
from statemachine.attachment import Pod, State, encode, file_name

SERVES = replace(STATUS, ready=True, not_ready=(), warnings=(), cni_code=0, quarantined=0)
NOBODY = around_us.Neighbours(Proxy(Mode.NFTABLES, ("chain services of table ip kube-proxy",)), {}, (), (), True)


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """As on a node where all is well; a test changes one thing of it."""
    seen = SimpleNamespace(around=overlap.Around(), neighbours=NOBODY, plumbing=[])
    monkeypatch.setattr(overlaps.overlap, "read", lambda mesh: seen.around)
    monkeypatch.setattr(overlaps.dump, "link_name", lambda index: "docker0")
    monkeypatch.setattr(neighbours.neighbours, "look", lambda root, conf_dir: seen.neighbours)
    monkeypatch.setattr(neighbours, "mesh_device", lambda: "tailscale0")
    monkeypatch.setattr(neighbours, "MeshLink", lambda: SimpleNamespace(way_to=lambda to: SimpleNamespace(refused="")))
    monkeypatch.setattr(plumbing, "_kernel", lambda patient: plumbing._problems(seen.plumbing, Trouble.FENCE))
    monkeypatch.setattr(doctor.time, "time", lambda: BORN + 7200)
    return seen


class Node:
    def __init__(self, root, capsys):
        self.root, self._capsys = root / "state", capsys
        for name in ("attachments", "history", "intents", "results", "quarantine"):
            (self.root / name).mkdir(parents=True)
        self.host = root / "host"
        plugin = self.host / "opt/cni/bin/headcni"
        plugin.parent.mkdir(parents=True)
        plugin.touch(mode=0o755)
        self.says(SERVES)
        self._lock = os.open(self.root / "daemon.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def daemon_dies(self):
        os.close(self._lock)
        self._lock = None

    def close(self):
        if self._lock is not None:
            os.close(self._lock)

    def says(self, status, **changes):
        said = replace(status, cni_beat=time.monotonic_ns(), **changes)
        (self.root / "status.json").write_bytes(encode_status(said))

    def sees(self, view):
        self.says(SERVES, mesh={"mode": "tailscale", "static_routes": []})
        (self.root / "mesh-view.json").write_bytes(encode_view(view))

    def put(self, *records):
        for record in records:
            (self.root / "attachments" / file_name(record.key)).write_bytes(encode(record))

    def run(self, *argv):
        code = main(["--state-dir", str(self.root), "doctor", *argv])
        out, err = self._capsys.readouterr()
        assert err == ""
        return code, out

    def complaints(self, *argv):
        code, out = self.run("-o", "json", *argv)
        found = orjson.loads(out)["complaints"]
        assert code == (1 if found else 0)
        assert all(each["what"] and each["cure"] and each["theme"] for each in found)
        return found

    def one(self, *argv):
        (only,) = self.complaints(*argv)
        return only


@pytest.fixture
def node(tmp_path, capsys, monkeypatch):
    made = Node(tmp_path, capsys)
    monkeypatch.setenv("HEADCNI_HOST_ROOT", str(made.host))
    yield made
    made.close()


# --- the whole


def test_nothing_is_wrong(node):
    node.put(in_state(State.ADVERTISED))
    node.sees(WELL)
    code, out = node.run()
    assert code == 0
    assert out == (
        "nothing is wrong\n\nlooked at\n"
        "  daemon         version 0.1.0, pid 4711, for 2h1m\n"
        "  configuration  2 settings are given, the others are defaults\n"
        f"  records        1 attachments, 0 calls waiting, in {node.root}\n"
        "  pod CIDR       10.244.1.0/24, from /var/lib/kubelet/config.yaml: podCIDR\n"
        "  node           the daemon looks at it, and tells what it cannot put right\n"
        "  overlap        0 addresses, 0 routes of others, 0 of the mesh\n"
        "  mesh           in force, 2 of 3 peers online, 2s ago\n"
        "  neighbours     kube-proxy: nftables (chain services of table ip kube-proxy)\n"
        "  Kubernetes     https://192.0.2.1:6443 (the kubelet's kubeconfig /etc/kubernetes/kubelet.conf)\n"
    )


def test_all_at_once_and_worst_first(node, kernel):
    node.put(stuck())
    kernel.around = overlap.Around([LinkAddress(ip_address("10.244.1.1"), 24, 3)])
    kernel.neighbours = replace(NOBODY, walls=(_drop(),))
    node.sees(NOT_APPROVED)
    told = node.complaints()
    assert [(each["level"], each["theme"], each["code"]) for each in told] == [
        ("error", "mesh", 132),
        ("error", "neighbours", 191),
        ("warning", "records", 106),
        ("warning", "overlap", 166),
    ]


def test_on_paper(node):
    node.put(stuck())
    _, out = node.run()
    assert out.startswith(
        "1 warning\n\n"
        "WARNING  records: default/web-0 is wired only: advertise: RTM_NEWROUTE was refused: Network is\n"
        "         unreachable (code 106)\n"
        "  seen   attempt 3, since 1h59m; `headcni show 4f5c0d9ab1e2`\n"
    )
    assert "`\n  cure   10.244.2.0/24 via 192.0.2.2\n" in out
    assert max(map(len, out.partition("looked at")[0].splitlines())) <= 100
    assert "was refused: Network is unreachable (code 106)\n" in node.run("-o", "wide")[1]


def test_as_yaml(node):
    node.put(stuck())
    assert "- level: warning" in node.run("-o", "yaml")[1]


def test_nothing_is_changed(node):
    node.put(stuck())
    node.sees(NOT_APPROVED)
    before = {path: path.stat() for path in node.root.rglob("*")}
    node.run()
    after = {path: path.stat() for path in node.root.rglob("*")}
    assert {path: at.st_mtime_ns for path, at in before.items()} == {path: at.st_mtime_ns for path, at in after.items()}


# --- the daemon and its files


def test_no_daemon(node):
    node.daemon_dies()
    told = node.one()
    assert (told["level"], told["code"]) == ("error", Code.UNAVAILABLE)
    assert "no daemon runs" in told["what"]
    assert "the last one wrote" in told["evidence"]


def test_without_a_daemon_the_node_is_looked_at(node, kernel):
    node.daemon_dies()
    kernel.plumbing = [Problem("the route is missing", "put it back")]
    assert [each["code"] for each in node.complaints()] == [Code.UNAVAILABLE, Trouble.FENCE]


def test_a_daemon_that_hangs(node):
    node.says(SERVES)
    said = replace(SERVES, cni_beat=time.monotonic_ns() - 100_000_000_000)
    (node.root / "status.json").write_bytes(encode_status(said))
    assert "has not moved for 100 s" in node.one()["what"]


def test_no_directory(node):
    node.daemon_dies()
    shutil.rmtree(node.root)
    assert [each["code"] for each in node.complaints()] == [Code.UNAVAILABLE, Code.IO_FAILURE, KubeTrouble.CIDR_GUESSED]


def test_the_daemons_own_words(node):
    node.says(SERVES, not_ready=(NotReady("pool is empty", "delete pods", "all held"),), warnings=("odd; so be it",))
    told = node.complaints()
    assert [(each["level"], each["theme"], each["what"], each["cure"]) for each in told] == [
        ("error", "daemon", "pool is empty: all held", "delete pods"),
        ("warning", "daemon", "odd", "so be it"),
    ]


def test_what_a_theme_found_is_not_told_again_in_the_daemons_words(node, kernel):
    kernel.around = overlap.Around([LinkAddress(ip_address("10.244.1.1"), 24, 3)])
    what = (
        "this node's pod CIDR 10.244.1.0/24 overlaps the network 10.244.1.0/24 of docker0 (Docker): containers there "
    )
    what += "and in the cluster may have the same address"
    node.says(SERVES, not_ready=(NotReady(what, "x"),), warnings=(f"{what}; whatever",))
    assert node.one()["theme"] == "overlap"


def test_a_warning_of_a_reason_is_told_once(node):
    node.says(SERVES, not_ready=(NotReady("it leaks", "mend it"),), warnings=("it leaks; mend it",))
    assert node.one()["level"] == "error"


def test_two_records_hold_one_address(node):
    one = in_state(State.ADVERTISED)
    node.put(one, replace(one, container="ab" * 32, pod=Pod("default", "twin", "")))
    told = [each for each in node.complaints() if each["level"] == "error"]
    assert [each["what"].split()[0] for each in told] == ["10.244.1.7", "fd00:244:1::7"]
    assert all("default/web-0" in each["what"] and "default/twin" in each["what"] for each in told)


def test_what_cannot_be_read(node):
    (node.root / "attachments/x@eth0.json").write_bytes(b"garbage")
    (node.root / "quarantine/y.json").write_bytes(b"garbage")
    (node.root / "quarantine/y.json.reason").write_bytes(b"torn")
    told = node.complaints()
    assert {each["what"].partition(":")[0] for each in told} == {"attachments/x@eth0.json", "quarantine/y.json"}
    assert {each["code"] for each in told} == {Code.IO_FAILURE}


def test_a_call_that_waits(node):
    made = max(0, time.monotonic_ns() - 90_500_000_000)
    (node.root / "intents" / f"{made:020d}.1-f0@eth0.DEL.json").touch()
    assert "1 calls of the plugin wait, the longest for 9" in node.one()["what"]


def test_a_full_disk(node, monkeypatch):
    full = SimpleNamespace(f_bavail=0, f_blocks=100, f_favail=0, f_files=0)
    monkeypatch.setattr(doctor.records.os, "statvfs", lambda path: full)
    assert node.one()["what"].endswith(
        "has no space left: no pod can be added"
    )  # a file system without inodes has none


def test_a_missing_plugin(node):
    (node.host / "opt/cni/bin/headcni").unlink()
    assert node.one()["theme"] == "node"


# --- configuration and pod CIDR


def test_a_wrong_configuration_does_not_hide_the_rest(node, tmp_path):
    node.put(stuck())
    file = tmp_path / "c.yaml"
    file.write_text("network: {mtu: 3}\nlogLevle: debug\n")
    told = node.complaints("--config", str(file))
    wrong = [each for each in told if each["theme"] == "configuration"]
    assert {each["what"].split(":")[0].split(" ")[0] for each in wrong} == {"network.mtu", "logLevle"}
    assert all(str(file) in each["evidence"] for each in wrong)
    assert "records" in {each["theme"] for each in told}


def test_a_guess_and_a_source_that_disagrees(node):
    finding = {**STATUS.pod_cidr_source["findings"][0], "why": "two say", "code": 162, "cure": "correct one"}
    guess = {
        **STATUS.pod_cidr_source,
        "guess": True,
        "warnings": ["it is only a GUESS; set it", "two say; correct one"],
        "findings": [finding],
    }
    node.says(SERVES, pod_cidr_source=guess, warnings=("it is only a GUESS; set it",))
    assert [(each["theme"], each["code"]) for each in node.complaints()] == [("pod CIDR", 163), ("pod CIDR", 162)]


# --- the mesh


def test_a_broken_link_is_an_error_and_a_finding_a_warning(node):
    node.sees(NOT_APPROVED)
    assert (node.one()["level"], node.one()["code"]) == ("error", 132)
    node.sees(found(Trouble.MTU))
    assert (node.one()["level"], node.one()["code"]) == ("warning", 140)
    node.sees(found(Trouble.NODE_DELETED))
    assert node.one()["level"] == "error"


def test_a_link_behind_one_that_holds_is_a_warning(node):
    node.sees(linked(Link.DELIVERED, state(Holds.NO, refusal(Trouble.NOT_DELIVERED))))
    assert (node.one()["level"], node.one()["code"]) == ("warning", 136)


def test_an_old_view(node):
    node.sees(replace(WELL, written=SEEN - 3600))
    told = node.one()
    assert told["what"] == "what the mesh is like now is not known"
    assert "LAST KNOWN STATE" in told["evidence"]


def test_nobody_looked_at_the_mesh(node):
    node.says(SERVES, mesh={"mode": "tailscale", "static_routes": []})
    assert node.one()["level"] == "error"


# --- around


def _drop():
    return Wall(Chain("ip", "filter", "FORWARD", "forward", "drop"), {})


def test_an_overlap_that_breaks_traffic_is_an_error(node, kernel, monkeypatch):
    kernel.around = overlap.Around([LinkAddress(ip_address("10.244.1.20"), 24, 2)])
    monkeypatch.setattr(overlaps.dump, "link_name", lambda index: "eth0")
    told = node.one()
    assert (told["level"], told["code"], told["evidence"]) == ("error", 166, "10.244.1.20/24 dev eth0")


def test_services_are_those_of_the_daemon(node, kernel, monkeypatch):
    monkeypatch.setattr(overlaps.dump, "link_name", lambda index: "eth0")
    kernel.around = overlap.Around([LinkAddress(ip_address("10.96.0.20"), 24, 2)])
    assert "the range of Services 10.96.0.0/16" in node.one()["what"]


def test_a_firewall_and_what_cannot_be_looked_at(node, kernel):
    kernel.neighbours = replace(NOBODY, walls=(_drop(),), blind=("the command nft is missing",))
    told = node.complaints()
    assert [(each["level"], each["code"]) for each in told] == [("error", 191), ("warning", 0)]
    assert "the command nft is missing" in told[1]["what"]


def test_a_node_without_a_way_to_services(node, monkeypatch):
    nowhere = SimpleNamespace(way_to=lambda to: SimpleNamespace(refused=f"{to} is unreachable"))
    monkeypatch.setattr(neighbours, "MeshLink", lambda: nowhere)
    told = node.one()
    assert "cannot reach Services (10.96.0.0/16): 10.96.0.1 is unreachable" in told["what"]


def test_each_way_to_kubernetes_that_failed(node):
    unknown = {"code": 172, "what": "unknown authority", "cure": "name it"}
    silent = {"code": 179, "what": "no rule for 10.96.0.1", "cure": "start kube-proxy"}
    tried = [{"way": "kube.url https://a", "trouble": unknown}, {"way": "in the cluster", "trouble": silent}]
    node.says(SERVES, kube={**STATUS.kube, "endpoint": "", "trouble": unknown, "tried": tried})
    assert [(each["code"], each["evidence"]) for each in node.complaints()] == [
        (172, "kube.url https://a"),
        (179, "in the cluster"),
    ]


def test_what_kubernetes_does_not_let_the_daemon_do(node):
    denied = {"code": 177, "what": "may not patch", "cure": "grant it"}
    node.says(SERVES, kube={**STATUS.kube, "trouble": denied})
    assert node.one()["evidence"] == "Node worker-1: True HeadCNIIsNotReady"


def test_without_a_daemon_the_files_of_each_way_are_read_and_nothing_is_dialled(node, monkeypatch, tmp_path):
    node.daemon_dies()
    (tmp_path / "kubeconfig").mkdir()
    monkeypatch.setenv("HEADCNI_KUBECONFIG", str(tmp_path / "kubeconfig"))
    told = [each for each in node.complaints() if each["theme"] == "Kubernetes"]
    assert [(each["level"], each["code"]) for each in told] == [("warning", KubeTrouble.API_KUBECONFIG)]
    assert f"{tmp_path}/kubeconfig is a directory" in told[0]["what"]
    assert "subPath" in told[0]["cure"]


def test_an_exec_plugin_is_not_run_by_looking(node, monkeypatch, tmp_path):
    node.daemon_dies()
    plugin = {"command": "touch", "args": [str(tmp_path / "ran")], "apiVersion": "client.authentication.k8s.io/v1"}
    body = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": "https://192.0.2.1:6443"}}],
        "users": [{"name": "it", "user": {"exec": plugin}}],
    }
    (tmp_path / "kubeconfig").write_bytes(orjson.dumps(body))
    monkeypatch.setenv("HEADCNI_KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert not [each for each in node.complaints() if each["theme"] == "Kubernetes"]
    assert not (tmp_path / "ran").exists()


def test_kube_off(node, monkeypatch):
    monkeypatch.setenv("HEADCNI_KUBE", "off")
    assert "kube.mode is off" in node.run()[1]


# --- rounds


def test_a_theme_that_hangs_costs_none_of_the_others():
    never = threading.Event()

    fine = Examined("", "fine")

    def hangs(patient):
        never.wait(20)
        return fine

    try:
        hung, other = rounds.examine({"slow": hangs, "fast": lambda patient: fine}, None, seconds=0.05)
    finally:
        never.set()
    assert hung.complaints[0].what == "looking at this took longer than 0.05 s"
    assert (other.theme, other.saw) == ("fast", "fine")


def test_a_theme_that_fails_costs_none_of_the_others():
    fine = Examined("", "fine", (Complaint(Level.WARNING, "a", "b"),))
    broken, other = rounds.examine({"bad": lambda patient: 1 / 0, "good": lambda patient: fine}, None)
    assert broken.complaints[0].code == Code.INTERNAL_FAULT
    assert "ZeroDivisionError" in broken.complaints[0].what
    assert other.complaints[0].theme == "good"


def test_a_refusal_becomes_a_complaint():
    assert complaint.of(Refusal(166, "what", "cure"), True, "seen") == Complaint(
        Level.ERROR, "what", "cure", "seen", 166
    )


def test_several_are_counted():
    told = [Complaint(level, "a", "b") for level in (Level.ERROR, Level.ERROR, Level.WARNING)]
    assert page.page(told, [Examined("x", "y")], False).startswith("2 errors, 1 warning\n")


# --- the bundle


def test_a_bundle_holds_what_somebody_else_needs_and_no_key(node, tmp_path):
    node.put(in_state(State.ADVERTISED))
    node.sees(WELL)
    (node.root / "quarantine/odd").write_text('{"authKey": "hskey-auth-abcdef-123456"}')
    (node.root / "quarantine/odd.reason").write_text("odd")
    target = tmp_path / "b.tar.gz"
    node.run("--bundle", str(target))
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        held = {each.name: archive.extractfile(each).read().decode() for each in archive}
    assert {"headcni/doctor.json", "headcni/config.json", "headcni/state/status.json"} <= held.keys()
    assert any(name.startswith("headcni/state/attachments/") for name in held)
    assert any(name.startswith("headcni/commands/ip-rule") for name in held)
    assert orjson.loads(held["headcni/doctor.json"])["looked_at"]
    assert "hskey-auth" not in "".join(held.values())


def test_a_bundle_overwrites_nothing(node, tmp_path, capsys):
    target = tmp_path / "b.tar.gz"
    target.write_text("mine")
    assert main(["--state-dir", str(node.root), "doctor", "--bundle", str(target)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert target.read_text() == "mine"
