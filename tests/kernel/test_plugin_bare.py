"""The static plugin where there is nothing: a root file system of one busybox; no C library, Python, /proc or /dev.

The real daemon runs beside it, on the same state directory by another path, so that each verb is done and not only
asked for.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from plugin_forms import ENV, STATIC_FORMS, cannot_run, make

from fixtures import peers
from fixtures.site import Site

pytestmark = pytest.mark.kernel

MIB = 1 << 20
WHERE = "/opt/a prefix/bin/headcni"
INPUT = b'{"cniVersion": "1.0.0", "name": "n"}'


@pytest.fixture(scope="module", params=STATIC_FORMS)
def form(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp("form"))


@pytest.fixture(scope="module")
def root(form, tmp_path_factory):
    """The host, as a directory."""
    made = tmp_path_factory.mktemp("root")
    for directory in ("bin", "var/lib", "tmp", str(Path(WHERE).parent.relative_to("/"))):
        (made / directory).mkdir(parents=True)
    shutil.copy(_busybox(), made / "bin/busybox")
    for name in ("headcni", "headcni-ipam"):
        shutil.copy(form.file, Path(f"{made}{WHERE}").with_name(name))
    return made


@pytest.fixture(scope="module")
def site(root, node):
    with Site(node, root / "var/lib/headcni") as running:
        yield running


def _busybox():
    found = shutil.which("busybox")
    try:
        return found or peers.find("busybox")
    except peers.MissingPeer:
        return cannot_run("busybox is missing: apt-get install busybox-static")


def _there(root, program=WHERE):
    """Started by the host's shell, with nothing else in sight."""
    return ("chroot", str(root), "/bin/busybox", "sh", "-c", 'exec "$0"', program)


def _version(command, env=None, **more):
    """It answers, whatever is around it."""
    environment = {"PATH": os.environ["PATH"], "CNI_COMMAND": "VERSION", **(env or {})}
    done = subprocess.run(command, env=environment, input=INPUT, capture_output=True, timeout=20, check=False, **more)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["cniVersion"] == "1.0.0"


def test_every_verb_on_a_host_that_has_nothing_but_busybox(root, site):
    def call(verb, container="box", **conf):
        return site.call(verb, container, command=_there(root), conf={"state_dir": None, **conf})

    assert call("VERSION").json["supportedVersions"]
    assert (call("STATUS").code, call("STATUS").raw) == (0, b"")
    added = call("ADD")
    assert site.node.ping(added.address)
    assert call("CHECK", prevResult=added.json).code == 0
    call("ADD", "garbage")
    valid = [{"containerID": "box", "ifname": "eth0"}]
    assert call("GC", **{"cni.dev/valid-attachments": valid}).code == 0
    site.wait_quiet()
    assert list(site.records()) == ["box@eth0"]
    assert (call("DEL").code, call("DEL").raw) == (0, b"")
    site.wait_quiet()
    assert (site.records(), site.wrongs()) == ({}, [])


def test_an_error_is_told_there_as_well(root, site):
    answer = site.call("ADD", "box", netns="/run/netns/none", command=_there(root), conf={"state_dir": None})
    assert (answer.code, answer.json["code"]) == (1, 3)


def test_under_its_other_name(root):
    program = str(Path(WHERE).with_name("headcni-ipam"))
    done = subprocess.run(_there(root, program), env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
    assert b"CNI plugin headcni-ipam " in done.stderr


def test_on_a_read_only_host_with_a_tmp_that_executes_nothing(root):
    locked = (
        f"mount --bind '{root}' '{root}' && mount -o remount,ro,bind '{root}' && "
        f"mount -t tmpfs -o noexec none '{root}/tmp'"
    )
    _version(("unshare", "--mount", "sh", "-c", f'{locked} && exec "$@"', "sh", *_there(root)))


def test_with_a_proc_that_is_empty(form, root):
    hidden = "mount -t tmpfs none /proc && mount -t tmpfs none /dev && mount -t tmpfs none /etc"
    _version(("unshare", "--mount", "sh", "-c", f'{hidden} && exec "$@"', "sh", *form.command))


@pytest.mark.parametrize(
    "odd",
    [
        {"LANG": "xx_YY.nonsense", "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "\udcff"},
        {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONMALLOC": "debug", "PYTHONVERBOSE": "1"},
        {"PYTHONUTF8": "2", "PYTHONHASHSEED": "nonsense", "PYTHONSTARTUP": "/nowhere", "PYTHONDEVMODE": "1"},
        {"LD_PRELOAD": "/nowhere.so", "LD_LIBRARY_PATH": "/nowhere", "MALLOC_ARENA_MAX": "0", "GCONV_PATH": "/nowhere"},
        {"TZ": "Mars/Olympus", "TZDIR": "/nowhere"},
        {f"VARIABLE_{n}": "x" * 100_000 for n in range(15)},
        {"": "no name", "\udcff": "\udcfe"},
    ],
    ids=["locale", "python", "python too", "loader", "clock", "huge", "bytes"],
)
def test_in_an_odd_environment(form, odd):
    _version(form.command, odd)


def test_without_an_environment_it_says_what_it_is(form):
    done = subprocess.run(form.command, env={}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"CNI plugin headcni " in done.stderr


def test_with_little_memory_and_an_endless_stack(form):
    _version(("sh", "-c", 'ulimit -v 100000 && ulimit -s unlimited && exec "$@"', "sh", *form.command))


def _closing(form, redirections, verb="VERSION", **env):
    command = ("sh", "-c", f'exec "$@" {redirections}', "sh", *form.command)
    return subprocess.run(command, env={"CNI_COMMAND": verb, **env}, input=INPUT, capture_output=True, check=False)


def test_without_standard_input_the_error_is_still_an_answer(form):
    done = _closing(form, "<&-")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 107)
    assert "Bad file descriptor" in done.stdout.decode()


def test_without_standard_output_it_fails(form):
    done = _closing(form, ">&-")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Bad file descriptor" in done.stderr


def test_without_standard_error_it_works(form):
    assert _closing(form, "2>&-").returncode == 0


def test_it_opens_nothing_of_the_host(form, tmp_path):
    """Whole DEL: what it opens is its state directory, the boot's id, and the clock's zone, which it does without."""
    trace = tmp_path / "trace"
    config = json.dumps({"cniVersion": "1.0.0", "name": "n", "state_dir": str(tmp_path / "state")}).encode()
    command = ("strace", "-o", trace, "-e", "trace=open,openat,readlink,stat,newfstatat,access", *form.command)
    subprocess.run(command, env={**ENV, "CNI_COMMAND": "DEL"}, input=config, check=True)
    paths = {line.split('"')[1] for line in trace.read_text().splitlines() if '"' in line} - {""}
    known = {"/proc/self/exe", "/etc/localtime", "/proc/sys/kernel/random/boot_id"}
    assert {path for path in paths if not path.startswith(str(tmp_path))} <= known
