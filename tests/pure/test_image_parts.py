"""The parts that an image is put together from: files without a file system, a cache, packages."""

import gzip
import io
import json
import os
import tarfile
import zipfile

import pytest

from deploy.bundle import build as bundle
from deploy.image import cache, debian, interpreter, oci, own, wheels
from deploy.image.contents import contents
from deploy.image.tree import EPOCH, File, Folder, Link, as_layer, as_tar, matches, of_layer, of_tar, write_out

TREE = {
    "usr/bin/run": File(b"#!", executable=True),
    "usr/lib/a": File(b"a"),
    "usr/lib.conf": File(b""),
    "lib": Link("usr/lib"),
    "tmp": Folder(0o1777),
    "run/empty": Folder(),
}


def test_a_layer_is_read_back_as_it_was_written():
    assert of_layer(as_layer(TREE)) == TREE


def test_neither_order_nor_time_is_in_a_layer():
    assert as_layer(dict(reversed(TREE.items()))) == as_layer(TREE)
    with tarfile.open(fileobj=io.BytesIO(as_tar(TREE))) as tar:
        members = {each.name: each for each in tar}
    assert list(members) == [
        *("lib", "run", "run/empty", "tmp", "usr", "usr/bin", "usr/bin/run", "usr/lib", "usr/lib/a", "usr/lib.conf")
    ]
    assert {(each.mtime, each.uid, each.gid, each.uname) for each in members.values()} == {(EPOCH, 0, 0, "")}
    modes = [oct(members[name].mode) for name in ("tmp", "usr", "usr/bin/run", "usr/lib/a")]
    assert modes == ["0o1777", "0o755", "0o755", "0o644"]


def test_no_right_of_a_package_gets_in():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("./bin/su", 0o4755), ("./etc/shared", 0o666)):
            info = tarfile.TarInfo(name)
            info.mode, info.uid = mode, 1000
            tar.addfile(info)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        found = of_tar(tar)
    assert {name: entry.mode for name, entry in found.items()} == {"bin/su": 0o755, "etc/shared": 0o644}


def test_it_is_written_out_with_modes_and_times(tmp_path):
    write_out(TREE, tmp_path)
    found = {str(each.relative_to(tmp_path)): each.lstat() for each in tmp_path.rglob("*")}
    assert found["tmp"].st_mode & 0o7777 == 0o1777
    assert found["usr/bin/run"].st_mode & 0o777 == 0o755
    assert {each.st_mtime for each in found.values()} == {EPOCH}
    assert os.readlink(tmp_path / "lib") == "usr/lib"


@pytest.mark.parametrize(
    ("name", "pattern", "holds"),
    [
        ("usr/bin/ip", "/usr/bin/ip", True),
        ("usr/bin/ipcs", "/usr/bin/ip", False),
        ("usr/lib/x-linux-gnu/libc.so.6", "/usr/lib/*-linux-gnu/*.so.*", True),
        ("usr/lib/x-linux-gnu/gconv/a.so.1", "/usr/lib/*-linux-gnu/*.so.*", False),
        ("usr/share/gdb/usr/lib/x-linux-gnu/a.so.1.py", "/usr/lib/*-linux-gnu/*.so.*", False),
        ("usr/lib/python3.11/test/a/b.py", "/usr/lib/python3.11/test/", True),
        ("usr/lib/python3.11/tests.py", "/usr/lib/python3.11/test/", False),
        ("a/kubernetes/models/v1_pod.py", "kubernetes/models/[!_]*", True),
        ("a/kubernetes/models/__init__.py", "kubernetes/models/[!_]*", False),
    ],
)
def test_a_pattern(name, pattern, holds):
    assert matches(name, [pattern]) is holds


# --- the cache


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADCNI_IMAGE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def making(content):
    def make(into):
        into.mkdir()
        (into / "it").write_text(content)

    return make


def test_what_was_made_once_is_not_made_again(room):
    assert (cache.folder("a", making("one")) / "it").read_text() == "one"
    assert (cache.folder("a", making("two")) / "it").read_text() == "one"
    assert (cache.folder("a", making("two"), fresh=True) / "it").read_text() == "two"


def test_what_failed_leaves_nothing(room):
    def fail(into):
        making("half")(into)
        raise cache.Missing("something")

    with pytest.raises(cache.Missing):
        cache.folder("a", fail)
    assert list(room.iterdir()) == []


def test_somebody_else_may_be_quicker(room):
    def slow(into):
        making("slow")(into)
        cache.folder("a", making("quick"))

    assert (cache.folder("a", slow) / "it").read_text() == "quick"


def test_a_digest_tells_parts_apart():
    assert cache.digest("ab", "c") != cache.digest("a", "bc")


# --- packages


def test_a_wheel_that_wants_to_be_elsewhere_is_refused(tmp_path):
    """Nothing of it would be where it is looked for."""
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a-1.data/scripts/a", "#!python")
    with pytest.raises(NotImplementedError, match=r"a-1\.data/scripts/a"):
        wheels.unpacked([tmp_path / "a-1-py3-none-any.whl"], contents())


@pytest.mark.parametrize(
    ("attempt", "named"),
    [
        (lambda: debian.download(["libc6"], "amd64"), "apt-get, dpkg-deb"),
        (lambda: own.loopback("1.9.1", "amd64"), "go"),
        (lambda: interpreter.emulator_for("other"), "qemu-other-static"),
        (lambda: bundle.launcher(interpreter.own_arch(), "ld.so"), "gcc"),
    ],
)
def test_what_is_missing_here_is_named(room, monkeypatch, attempt, named):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(interpreter.EMULATORS, "other", "qemu-other-static")
    with pytest.raises(cache.Missing, match=named):
        attempt()


def test_an_image_is_found_by_its_name_and_its_processor():
    layer = as_layer(TREE)
    with tarfile.open(fileobj=io.BytesIO(oci.archive([layer], {}, "arm64", "localhost/it:1.2", 0))) as tar:
        (listed,) = json.load(tar.extractfile("index.json"))["manifests"]
        blobs = {each.name for each in tar if each.isfile()}
    assert listed["annotations"] == {oci.NAME: "localhost/it:1.2", oci.TAG: "1.2"}
    assert listed["platform"] == {"architecture": "arm64", "os": "linux"}
    assert "oci-layout" in blobs
    assert gzip.decompress(layer) == as_tar(TREE)


# --- the bundle


def test_the_bundle_has_byte_code_only_and_nothing_of_the_system():
    image = {
        "usr/lib/python3.11/os.py": File(b"source"),
        "usr/lib/python3.11/__pycache__/os.cpython-311.pyc": File(b"code"),
        "usr/lib/python3.11/alias.py": Link("os.py"),
        "usr/lib/python3/dist-packages/cni/__pycache__/spec.cpython-311.pyc": File(b"code"),
        "usr/lib/x86_64-linux-gnu/libc.so.6": File(b"library"),
        "usr/bin/headcni": File(b"#!", executable=True),
        "opt/headcni/plugin/headcni": File(b"plugin", executable=True),
        "etc/passwd": File(b"root"),
        "var/run": Link("/run"),
    }
    assert set(bundle.arranged(image, "amd64")) == {
        "lib/python3.11/os.pyc",
        "lib/python3.11/alias.pyc",
        "lib/python3/dist-packages/cni/spec.pyc",
        "lib/x86_64-linux-gnu/libc.so.6",
        "libexec/headcni.py",
        "plugin/headcni",
    }
