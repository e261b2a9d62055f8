"""Reading files that others wrote: every kind of thing that may stand under the name, and how long it may take."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.node import files
from reconciler.node.files import MAX_BYTES, names_in, read, read_all


def refused(outcome) -> str:
    assert isinstance(outcome, Refusal), outcome
    assert outcome.code == Trouble.SOURCE_UNREADABLE
    assert outcome.details
    return outcome.msg


def test_a_file_is_read_and_a_missing_one_is_none(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/a").write_bytes(b"x")
    assert read_all(tmp_path, ["/etc/a", "/etc/b", "/etc/a/c"]) == {"/etc/a": b"x", "/etc/b": None, "/etc/a/c": None}


def test_a_directory_is_named_with_its_cure(tmp_path):
    (tmp_path / "config.yaml").mkdir()
    outcome = read(tmp_path, "/config.yaml")
    assert refused(outcome) == f"{tmp_path}/config.yaml is a directory"
    assert "subPath" in outcome.details


def test_a_fifo_without_a_writer_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert refused(read(tmp_path, "/fifo")) == f"{tmp_path}/fifo is a FIFO, not a file"


def test_a_socket_and_a_device_are_no_files(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert "is a socket" in refused(read(tmp_path, "/socket"))
    (tmp_path / "device").symlink_to("/dev/zero")
    root, path = tmp_path.anchor, f"{tmp_path}/device"
    assert "is a device" in refused(read(type(tmp_path)(root), path))


@pytest.mark.parametrize(("size", "fits"), [(MAX_BYTES, True), (MAX_BYTES + 1, False), (100 << 20, False)])
def test_the_largest_file_that_is_read(tmp_path, size, fits):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size)
    outcome = read(tmp_path, "/big")
    if fits:
        assert len(outcome) == size
    else:
        assert f"has {size} bytes" in refused(outcome)


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "big").write_bytes(b"x" * (MAX_BYTES + 1))
    monkeypatch.setattr(files, "_wrong_kind", lambda at, found: None)  # it was small when it was looked at
    assert "only" in refused(read(tmp_path, "/big"))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), PermissionError(1, "Not permitted")])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, error):
    def deny(*_, **__):
        raise error

    monkeypatch.setattr(files.os, "open", deny)
    outcome = read(tmp_path, "/secret")
    assert refused(outcome) == f"{tmp_path}/secret may not be read by this user"
    assert "root" in outcome.details


def test_another_error_is_told_in_the_kernels_words(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert "Too many levels of symbolic links" in refused(read(tmp_path, "/loop"))
    assert "Too many levels of symbolic links" in refused(read(type(tmp_path)("/"), f"{tmp_path}/loop"))


def test_links_lead_where_they_lead_on_the_host(tmp_path):
    root = tmp_path / "host"
    (root / "var/snap/microk8s/8513").mkdir(parents=True)
    (root / "var/snap/microk8s/8513/args").write_bytes(b"ours")
    (root / "var/snap/microk8s/current").symlink_to("8513")
    (root / "etc").symlink_to("/var/snap/microk8s/current")
    (root / "up").symlink_to("../../../../var/snap/./microk8s/current/args")
    (tmp_path / "var").symlink_to(root / "etc")
    for path in ("/var/snap/microk8s/current/args", "/etc/args", "/up"):
        assert read(root, path) == b"ours"


def test_a_link_out_of_the_root_finds_nothing_there(tmp_path):
    (tmp_path / "outside").write_bytes(b"the container's")
    root = tmp_path / "host"
    root.mkdir()
    (root / "inside").symlink_to(tmp_path / "outside")
    assert read(root, "/inside") is None


def test_who_hangs_is_named_and_the_rest_is_left(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode())
    going_on, real = threading.Event(), files.read

    def slow(root, path):
        if path == "/b":
            going_on.wait(20)
        return real(root, path)

    monkeypatch.setattr(files, "read", slow)
    found = read_all(tmp_path, ["/a", "/b", "/c"], seconds=0.05)
    going_on.set()
    assert found["/a"] == b"a"
    assert refused(found["/b"]) == f"{tmp_path}/b gave no answer within 0.05 s"
    assert found["/c"] == found["/b"]  # one warning, not one for each


def test_names_of_a_directory_that_is_not_there(tmp_path):
    (tmp_path / "node-b.yaml").touch()
    (tmp_path / "node-a.yaml").touch()
    assert names_in(tmp_path, "/") == ("node-a.yaml", "node-b.yaml")
    assert names_in(tmp_path, "/nowhere") == ()
