"""What HeadCNI puts on a host: when, that it is whole at every instant and after every kill, and that all of it leaves.

The killer is strace, as in tests/crash; here it looks only at calls that name one of the files in question (-P), so the
n-th of them is the same in each run, whatever else a daemon does meanwhile. What comes after a kill is done in this
process, by the same functions, because it comes a hundred times.
"""

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from cni.spec import SUPPORTED_VERSIONS
from deploy.plugin_file import PLUGIN, build, examine
from fixtures import tree
from fixtures.processes import REPOSITORY, DaemonProcess
from fixtures.site import POD_CIDR, Site, wait_until
from reconciler.config import load
from reconciler.install import binaries, place
from reconciler.install.keeper import ConflistKeeper
from reconciler.install.record import FILE
from reconciler.install.removal import remove_binaries, remove_conflists
from reconciler.operate.log import Once
from reconciler.store import Store

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

HEADCNI = (sys.executable, "-m", "reconciler.operate.cli")
OURS, FLANNEL, NAMESAKE = "10-headcni.conflist", "05-flannel.conflist", "of somebody else"
READ_BY_RUNTIMES = (".conf", ".conflist", ".json")
STRUCK = ("openat", "write", "fchmod", "fsync", "rename", "link", "linkat", "unlink")


class Host:
    """Directories like those of a host, and our commands on them."""

    def __init__(self, node, root):
        self.node, self.root = node, root
        self.bin, self.conf, self.state = root / "bin", root / "net.d", root / "state"
        self.template, self.sources = root / "template", root / "sources"
        for each in (self.bin, self.conf, self.sources):
            each.mkdir()
        self.plugins = [self._plugin(number) for number in range(3)]
        ours = {"type": "headcni", "state_dir": str(self.state), "ipam": {"type": "headcni-ipam"}}
        self.template.write_text(conflist(ours))

    def _plugin(self, number):
        """Versions of the real plugin, which differ in their last bytes."""
        path = self.sources / f"headcni-{number}"
        path.write_bytes(build(examine(sys.executable), PLUGIN.read_bytes() + b"\n# %d\n" % number))
        path.chmod(0o755)
        return path

    def make_foreign(self):
        """Others were here before: an old binary of the same name, two networks."""
        (self.bin / "headcni").write_text(NAMESAKE)
        (self.bin / "headcni").chmod(0o750)
        (self.bin / "portmap").write_text("portmap")
        (self.conf / FLANNEL).write_text(conflist({"type": "flannel"}))
        (self.conf / OURS).write_text(conflist({"type": "bridge"}))
        for path in (*self.bin.iterdir(), *self.conf.iterdir()):
            os.utime(path, (1, 1))

    def tree(self):
        return tree.take(self.bin, self.conf)

    def install(self, number=1, wrapper=(), loopback=None):
        more = ("--loopback", str(loopback)) if loopback else ()
        arguments = ("--bin-dir", str(self.bin), "--plugin", str(self.plugins[number]), *more)
        return self.run("install", *arguments, wrapper=wrapper)

    def uninstall(self, *arguments, wrapper=()):
        return self.run("uninstall", *arguments, wrapper=wrapper)

    def run(self, verb, *arguments, wrapper=()):
        command = self.node.command(*wrapper, *HEADCNI, verb, "--state-dir", str(self.state), *arguments)
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    def daemon(self, *arguments, wrapper=(), pod_cidr=POD_CIDR):
        always = ("--pod-cidr", pod_cidr, "--conf-dir", str(self.conf), "--conf-template", str(self.template))
        return DaemonProcess(self.node, self.state, *always, *arguments, wrapper=wrapper)

    def written(self):
        return (self.conf / OURS).exists() and (self.conf / OURS).read_bytes() == self.template.read_bytes()

    def wait_written(self):
        wait_until(self.written, 20)

    @property
    def struck_files(self):
        """All that is written, renamed or removed."""
        targets = [self.bin / name for name in (*binaries.OURS, binaries.LOOPBACK)]
        targets += [self.conf / FLANNEL, self.conf / OURS, self.state / FILE]
        files = [each for target in targets for each in (target, place.draft_of(target), place.aside_of(target))]
        return [*files, self.bin, self.conf, self.state]

    def tracer(self, output, *options):
        paths = [word for path in self.struck_files for word in ("-P", str(path))]
        return ("strace", "-D", "-f", "-qq", "-e", "signal=none", "-o", str(output), *paths, *options)

    def halves(self):
        """What a runtime would find that is not whole."""
        for path in self.conf.iterdir():
            if path.name.endswith(READ_BY_RUNTIMES) and not json.loads(path.read_bytes())["plugins"]:
                yield path
        known = {each.read_bytes() for each in self.plugins} | {b"portmap", b"loopback", NAMESAKE.encode()}
        for path in self.bin.iterdir():
            if not path.name.startswith(".") and path.read_bytes() not in known:
                yield path


def conflist(plugin):
    return json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": [plugin]})


def versions(path):
    env = {"CNI_COMMAND": "VERSION"}
    done = subprocess.run([path], input=b'{"cniVersion": "1.0.0"}', env=env, capture_output=True, check=False)
    return json.loads(done.stdout)["supportedVersions"]


@pytest.fixture
def host(node, tmp_path):
    return Host(node, tmp_path)


@pytest.fixture
def disk(tmp_path):
    """Another file system, for the length of a test: `disk("size=1m")`."""
    mounted = []

    def mount(path, options):
        subprocess.run(("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)), check=True)
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(("umount", "--lazy", str(path)), check=True)


def fill(directory):
    """To the last byte; the file that does it."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
    return ballast


# --- the daemon writes it when it is ready, and keeps it


def test_a_node_that_is_not_ready_gets_no_configuration_until_it_is(host):
    clash = ("ip", "address", "add", "10.244.1.77/24", "dev", "eth0")
    host.node.run(*clash)
    try:
        with host.daemon() as daemon:
            wait_until(lambda: daemon.status().get("not_ready"), 10, daemon.log_tail)
            daemon_looked_again(daemon)
            assert list(host.conf.iterdir()) == []
            mended = time.time_ns()
            host.node.run(*clash[:2], "del", *clash[3:])
            daemon.wait_ready(20)
            host.wait_written()
            assert (host.conf / OURS).stat().st_mtime_ns > mended
    finally:
        host.node.run(*clash[:2], "del", *clash[3:], check=False)


def daemon_looked_again(daemon):
    """It has renewed its status, which it does seldomer than it looks whether it is ready."""
    written = daemon.status()["written"]
    wait_until(lambda: daemon.status()["written"] != written, 15)


def test_it_stays_when_the_daemon_stops_and_the_runtime_is_told(host):
    with host.daemon() as daemon:
        daemon.wait_ready()
        host.wait_written()
        assert daemon.stop() == 0
    assert host.written()
    site = Site(host.node, host.state)
    assert site.call("STATUS").json["code"] == 50


def test_it_follows_the_template_and_is_put_back_and_pods_do_not_notice(host):
    site = Site(host.node, host.state)
    site.daemon = host.daemon()
    with site:
        host.wait_written()
        host.template.write_text(host.template.read_text().replace('"net"', '"other"'))
        host.wait_written()
        (host.conf / OURS).unlink()
        host.wait_written()
        site.add()
        assert [line.rpartition(": ")[2].strip('"') for line in site.log_lines("conflist: wrote")] == [
            "the node can serve pods",
            "the template has changed",
            "it was missing",
        ]


def test_what_is_wrong_is_in_the_status_until_it_is_over(host):
    host.template.rename(host.root / "away")
    with host.daemon() as daemon:
        daemon.wait_ready()
        wait_until(lambda: any("(code 203)" in each for each in daemon.status()["warnings"]), 10, daemon.log_tail)
        assert list(host.conf.iterdir()) == []
        (host.root / "away").rename(host.template)
        host.wait_written()
        wait_until(lambda: daemon.status()["warnings"] == [], 10)


def test_a_second_daemon_with_another_state_directory_leaves_the_first_its_network(host, tmp_path):
    (tmp_path / "second").mkdir()
    second = Host(host.node, tmp_path / "second")
    second.conf = host.conf
    with host.daemon() as daemon:
        daemon.wait_ready()
        host.wait_written()
        with second.daemon(pod_cidr="10.244.9.0/24") as other:
            wait_until(lambda: any("(code 204)" in each for each in other.status().get("warnings", ())), 10)
            assert host.written()


# --- a disk without room


def test_a_full_disk_in_the_middle_of_an_installation_leaves_the_old_version(host, disk):
    disk(host.bin, "size=1m")
    assert host.install(1).returncode == 0
    before = host.tree()
    ballast = fill(host.bin)
    with ballast.open("r+b") as file:  # room for the first of the two, and not for the second
        file.truncate(ballast.stat().st_size - host.plugins[2].stat().st_size - 8192)
    done = host.install(2)
    assert done.returncode == 1
    assert f"cni.binDir = {host.bin}: No space left on device" in done.stderr
    ballast.unlink()
    assert host.tree() == before
    assert versions(host.bin / "headcni") == list(SUPPORTED_VERSIONS)
    assert host.install(2).returncode == 0
    assert (host.bin / "headcni").read_bytes() == host.plugins[2].read_bytes()


def test_a_full_disk_keeps_the_network_that_was_there(host, disk):
    disk(host.conf, "size=64k")
    (host.conf / FLANNEL).write_text(conflist({"type": "flannel"}))
    before = host.tree()
    ballast = fill(host.conf)
    with host.daemon("--set-aside") as daemon:
        wait_until(lambda: any("(code 202)" in each for each in daemon.status().get("warnings", ())), 10)
        ballast.unlink()
        assert {path: each for path, each in host.tree().items() if path in before} == before
        host.wait_written()
        wait_until(lambda: daemon.status()["warnings"] == [], 10)
    assert host.uninstall().returncode == 0
    assert host.tree() == before


@pytest.mark.parametrize("purge", [(), ("--purge",)])
def test_all_leaves_a_full_disk(host, disk, purge):
    """The record cannot be written any more, so it names what is gone already."""
    host.make_foreign()
    before = host.tree()
    host.state.mkdir()
    disk(host.state, "size=1m")
    host.install()
    with host.daemon("--set-aside") as daemon:
        daemon.wait_ready()
        host.wait_written()
        assert daemon.stop() == 0
    ballast = fill(host.state)
    done = host.uninstall(*purge)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"warning: {host.state / FILE} still names what was taken back" in done.stdout
    assert host.tree() == before
    if purge:
        assert list(host.state.iterdir()) == [ballast]
        return
    assert (host.state / FILE).exists()
    ballast.unlink()
    done = host.uninstall()
    assert (done.returncode, done.stderr) == (0, "")
    assert host.tree() == before
    assert not (host.state / FILE).exists()


# --- directories that cannot be used


KUBE = 64999  # as kubespray does, which gives both directories to a user of its own
AS_IN_A_CONTAINER = ("setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override")


def test_a_directory_of_another_user_is_to_be_given_to_root(host):
    os.chown(host.bin, KUBE, KUBE)
    done = host.install(wrapper=AS_IN_A_CONTAINER)
    assert done.returncode == 1
    assert f"cni.binDir = {host.bin}: Permission denied\nrun `chown root {host.bin}`" in done.stderr
    assert f"it belongs to uid {KUBE}" in done.stderr
    assert list(host.bin.iterdir()) == []
    os.chown(host.bin, 0, -1)
    assert host.install(wrapper=AS_IN_A_CONTAINER).returncode == 0


def test_a_directory_that_is_read_only_is_named_with_its_setting(host, disk):
    disk(host.bin, "ro")
    done = host.install()
    assert done.returncode == 1
    assert f"cni.binDir = {host.bin}: Read-only file system\nlet root write there, or set cni.binDir" in done.stderr


def test_a_directory_where_nothing_can_be_executed_is_told_before_anything_is_there(host, disk):
    disk(host.bin, "noexec")
    done = host.install()
    assert done.returncode == 1
    assert f"cannot be executed in {host.bin}, which is mounted noexec" in done.stderr
    assert list(host.bin.iterdir()) == []


# --- whole at every instant


UPGRADES = """
import sys
from pathlib import Path
from reconciler.install.binaries import install
from reconciler.store import Store
state, directory, *plugins = map(Path, sys.argv[1:])
for number in range(40):
    done = install(Store(state), directory, plugins[number % 2], None)
    assert isinstance(done, list), done
"""


def test_a_pod_that_starts_in_the_middle_runs_one_version_or_the_other(host):
    host.install(0)
    arguments = [str(each) for each in (host.state, host.bin, *host.plugins[:2])]
    upgrading = subprocess.Popen((sys.executable, "-c", UPGRADES, *arguments), cwd=REPOSITORY)
    started = 0
    while upgrading.poll() is None:
        for name in binaries.OURS:
            assert versions(host.bin / name) == list(SUPPORTED_VERSIONS)
            started += 1
    assert upgrading.returncode == 0
    assert started > 20


def left_at_once(host, before, point):
    """Also where nothing was run again meanwhile; what the next run does comes after that."""
    put_back = files_put_back(host, "killed")
    assert leave(host) == [], point
    assert host.tree() == before, point
    put_back()
    shutil.rmtree(host.root / "killed")


def strike(host, act, settle):
    """Kills `act` at every file operation, one after the other, each time beginning with the same files; how many there
    were. `act` gets what is to trace it, and says whether it was killed; `settle` is what the next run does."""
    begin = files_put_back(host)
    assert not act(host.tracer(host.root / "trace", "-e", "trace=" + ",".join(STRUCK)))
    begin()
    made = Counter(re.findall(r"^\d+ +(\w+)\(", (host.root / "trace").read_text(), re.MULTILINE))
    struck = 0
    for call in made:
        for when in range(1, made[call] + 1):
            struck += act(
                host.tracer("/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}")
            )
            assert list(host.halves()) == [], (call, when)
            settle((call, when))
            begin()
    return struck


def files_put_back(host, name="kept"):
    """As they are now, whatever happens to them later."""
    names = [each.name for each in (host.bin, host.conf, host.state) if each.exists()]
    kept = host.root / name
    kept.mkdir()
    subprocess.run(("cp", "-a", *names, str(kept)), cwd=host.root, check=True)

    def put_back():
        subprocess.run(("rm", "-rf", "bin", "net.d", "state"), cwd=host.root, check=True)
        subprocess.run(("cp", "-a", *[f"{kept.name}/{each}" for each in names], "."), cwd=host.root, check=True)

    return put_back


def leave(host):
    """The part of `headcni uninstall` that deals with files."""
    store = Store(host.state)
    return [each for each in (*remove_conflists(store), *remove_binaries(store)) if not isinstance(each, str)]


def test_an_installation_killed_anywhere_leaves_whole_files_and_the_next_one_finishes(host, record_property):
    """One binary was ours, one somebody else put in place of ours, one is not there yet."""
    host.make_foreign()
    before = host.tree()
    host.install(0)
    os.utime(host.bin / "headcni.before-headcni", (1, 1))
    os.rename(host.bin / "headcni.before-headcni", host.bin / "headcni")
    loopback = host.plugins[2]

    def act(tracer):
        return host.install(1, wrapper=tracer, loopback=loopback).returncode == -signal.SIGKILL

    def settle(point):
        left_at_once(host, before, point)
        done = binaries.install(Store(host.state), host.bin, host.plugins[1], loopback)
        assert [each for each in done if not isinstance(each, str)] == [], point
        assert {each.name: each.read_bytes() for each in host.bin.iterdir()} == {
            "headcni": host.plugins[1].read_bytes(),
            "headcni-ipam": host.plugins[1].read_bytes(),
            "loopback": host.plugins[2].read_bytes(),
            "headcni.before-headcni": NAMESAKE.encode(),
            "portmap": b"portmap",
        }, point
        assert leave(host) == [], point
        assert host.tree() == before, point

    struck = strike(host, act, settle)
    record_property("kill_points", struck)
    assert struck >= 30


def test_a_daemon_killed_anywhere_while_it_writes_its_network_leaves_whole_files(host, record_property):
    host.make_foreign()
    before = host.tree()
    given = {"stateDir": str(host.state), "cni.confDir": str(host.conf), "cni.template": str(host.template)}
    config = load({**given, "cni.setAside": "true"}, {}, None)

    def act(tracer):
        daemon = host.daemon("--set-aside", wrapper=tracer)
        daemon.start()
        wait_until(lambda: not daemon.running or daemon_has_written(), 30, daemon.log_tail)
        killed = not daemon.running
        daemon.kill()
        return killed

    def daemon_has_written():
        return "conflist: wrote" in (host.root / "state.log").read_text()

    def settle(point):
        left_at_once(host, before, point)
        keeper = ConflistKeeper(lambda: config, Store(host.state), lambda: True, Once(logging.getLogger("test")), list)
        assert keeper.look(0.0).refusals == (), point
        left = {OURS, *(f"{each}.before-headcni" for each in (OURS, FLANNEL))}
        assert {each.name for each in host.conf.iterdir()} == left, point
        assert host.written(), point
        assert leave(host) == [], point
        assert host.tree() == before, point
        (host.root / "state.log").unlink()

    struck = strike(host, act, settle)
    record_property("kill_points", struck)
    assert struck >= 10


# --- and all of it leaves


@pytest.fixture
def lived(host):
    """A host where HeadCNI was installed, upgraded, used and stopped."""
    host.make_foreign()
    host.before = host.tree()
    host.install(1)
    host.install(2)
    site = Site(host.node, host.state)
    site.daemon = host.daemon("--set-aside")
    site.daemon.start()
    site.daemon.wait_ready()
    host.wait_written()
    site.add()
    site.delete()
    site.wait_quiet()
    assert site.daemon.stop() == 0
    site.remove_pod("box")
    return host


def test_the_host_is_byte_for_byte_as_before(lived):
    assert lived.tree() != lived.before
    done = lived.uninstall()
    assert (done.returncode, done.stderr) == (0, "")
    assert lived.tree() == lived.before
    words = done.stdout.replace(f"{lived.root}/", "").splitlines()
    assert words[:4] == [
        f"deleted net.d/{OURS}",
        f"put net.d/{OURS} back, as it was before",
        f"put net.d/{FLANNEL} back, as it was before",
        words[3],
    ]
    assert words[-4:-1] == [
        "deleted bin/headcni",
        "put bin/headcni back, as it was before",
        "deleted bin/headcni-ipam",
    ]
    assert not (lived.state / FILE).exists()


def test_an_uninstallation_killed_anywhere_is_finished_by_the_next(lived, record_property):
    def act(tracer):
        return lived.uninstall(wrapper=tracer).returncode == -signal.SIGKILL

    def settle(point):
        assert leave(lived) == [], point
        assert lived.tree() == lived.before, point
        assert not (lived.state / FILE).exists(), point

    struck = strike(lived, act, settle)
    record_property("kill_points", struck)
    assert struck >= 15


def test_a_configuration_that_cannot_be_removed_keeps_everything(lived, disk):
    subprocess.run(("mount", "--bind", "-o", "ro", str(lived.conf), str(lived.conf)), check=True)
    try:
        done = lived.uninstall("--purge")
    finally:
        subprocess.run(("umount", str(lived.conf)), check=True)
    assert done.returncode == 1
    assert "the network configuration stays, so all is kept" in done.stderr
    assert (lived.bin / "headcni").read_bytes() == lived.plugins[2].read_bytes()
    assert lived.uninstall("--purge").returncode == 0
    assert lived.tree() == lived.before
    assert not lived.state.exists()


def test_a_configuration_in_a_directory_of_another_user_keeps_everything(lived):
    os.chown(lived.conf, KUBE, KUBE)
    done = lived.uninstall("--purge", wrapper=AS_IN_A_CONTAINER)
    assert done.returncode == 1
    assert "the network configuration stays, so all is kept" in done.stderr
    assert f"run `chown root {lived.conf}` on the node: it belongs to uid {KUBE}" in done.stderr
    assert lived.written()
    os.chown(lived.conf, 0, 0)
    assert lived.uninstall("--purge", wrapper=AS_IN_A_CONTAINER).returncode == 0
    assert lived.tree() == lived.before


@pytest.mark.parametrize("purge", [(), ("--purge",)])
def test_binaries_may_stay_for_pods_that_are_still_to_be_deleted(lived, purge):
    done = lived.uninstall("--keep-binaries", *purge)
    assert (done.returncode, done.stderr) == (0, "")
    assert (lived.bin / "headcni").read_bytes() == lived.plugins[2].read_bytes()
    assert f"{lived.bin}/" not in done.stdout
    assert lived.uninstall("--purge").returncode == 0
    assert lived.tree() == lived.before
    assert not lived.state.exists()
