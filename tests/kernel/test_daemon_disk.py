"""A full disk: an ADD fails with a clear error, a DEL works, and with the space everything comes back."""

import errno
import itertools
import json
import shutil
import signal
import subprocess

import pytest

from cni.spec import Code
from fixtures.site import Site, wait_until
from reconciler.wiring.plan import host_name

pytestmark = pytest.mark.kernel


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs", str(mounted)), check=True)
    yield mounted
    subprocess.run(("umount", "--lazy", str(mounted)), check=True)


def fill(disk):
    """To the last byte; the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            if no_space_to(file.write, bytes(size)):
                size //= 2
    return ballast


def exhaust_inodes(disk):
    crowd = disk / "crowd"
    crowd.mkdir()
    numbers = itertools.count()
    while not no_space_to((crowd / str(next(numbers))).touch):
        pass
    return crowd


def no_space_to(act, *arguments):
    try:
        act(*arguments)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return True
    return False


def make_room(what):
    if what.is_dir():
        shutil.rmtree(what)
    else:
        what.unlink()


@pytest.fixture
def small(node, disk):
    with Site(node, disk / "state") as running:
        yield running


@pytest.mark.parametrize("exhaust", [fill, exhaust_inodes])
def test_on_a_full_disk_adds_fail_clearly_and_deletes_work(small, disk, exhaust):
    before = small.node.snapshot()
    small.add("one")
    small.add("two")
    small.wait_quiet()
    obstacle = exhaust(disk)
    refused = small.call("ADD", "three", conf={"timeout_seconds": 3})
    assert refused.code == 1
    assert refused.json["code"] == Code.IO_FAILURE
    assert "No space left on device" in refused.json["msg"]
    assert str(small.state_dir) in json.dumps(refused.json)
    if exhaust is fill:  # an intent needs an inode
        small.delete("one", conf={"timeout_seconds": 3})
        wait_until(lambda: small.host_links() == {host_name("two@eth0")}, 5)
    else:
        assert small.call("DEL", "one").json["code"] == Code.IO_FAILURE
    make_room(obstacle)
    small.delete("one")
    small.add("three")
    small.delete("two")
    small.wait_quiet()
    assert list(small.records()) == ["three@eth0"]
    assert small.wrongs() == []
    small.delete("three")
    wait_until(lambda: not small.records())
    assert before.difference(small.node.snapshot()) == ()


@pytest.mark.parametrize("exhaust", [fill, exhaust_inodes])
def test_a_disk_that_fills_up_after_the_intent_refuses_the_add_and_undoes_it(small, disk, exhaust):
    small.daemon.send(signal.SIGSTOP)
    call = small.start("ADD", conf={"timeout_seconds": 3})
    wait_until(lambda: small.files("intents"))
    obstacle = exhaust(disk)
    small.daemon.send(signal.SIGCONT)
    answer = call.wait()
    assert answer.code == 1
    if exhaust is fill:  # without an inode there is no answer, only the deadline
        assert answer.json["code"] == Code.IO_FAILURE
        assert answer.seconds < 2
    make_room(obstacle)
    wait_until(lambda: not small.host_links() and not small.records())
    small.wait_quiet()
    assert small.wrongs() == []


@pytest.mark.parametrize("exhaust", [fill, exhaust_inodes])
def test_a_delete_left_on_a_full_disk_without_a_daemon_is_finished(small, disk, exhaust):
    small.add()
    small.wait_quiet()
    small.daemon.kill()
    obstacle = exhaust(disk)
    if exhaust is fill:
        small.delete()  # its name needs an inode, no space
    small.daemon.start()
    if exhaust is fill:
        wait_until(lambda: not small.host_links(), 5)
    assert small.daemon.running
    make_room(obstacle)
    small.daemon.wait_ready()
    small.delete()
    wait_until(lambda: not small.records())
    small.wait_quiet()
    assert small.wrongs() == []
