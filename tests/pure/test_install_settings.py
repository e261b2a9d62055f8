"""The settings of what is put on the host."""

from __future__ import annotations

from pathlib import Path

import pytest
from configured import loaded, refused

IDLE = "cni.setAside: no effect, as cni.template names no file"


def test_the_defaults_are_those_of_the_runtimes_and_write_nothing():
    config = loaded()
    assert (config.cni_bin_dir, config.cni_conf_dir) == (Path("/opt/cni/bin"), Path("/etc/cni/net.d"))
    assert (config.cni_conf_file, config.cni_template, config.cni_set_aside) == ("10-headcni.conflist", None, False)


@pytest.mark.parametrize("name", ["10-headcni.conflist", "_.conflist", "5_a.b-c.conflist"])
def test_a_name_that_runtimes_read(name):
    assert loaded({"cni.confFile": name}).cni_conf_file == name


@pytest.mark.parametrize(
    "name", ["", "10-headcni.conf", ".conflist", ".x.conflist", "a/b.conflist", "../x.conflist", 7]
)
def test_one_that_they_do_not_or_that_lies_elsewhere(name):
    (problem,) = refused({"cni.confFile": name})
    assert problem.key == "cni.confFile"
    assert "10-headcni.conflist" in problem.cure


@pytest.mark.parametrize("key", ["cni.binDir", "cni.confDir", "cni.template"])
def test_paths_are_absolute(key):
    (problem,) = refused({key: "etc/cni"})
    assert problem.key == key


def test_tailscaleds_socket_is_needed_also_to_leave_a_mesh():
    given = {"mesh.mode": "none", "tailscale.hostname": "a"}
    (warning,) = loaded({**given, "tailscale.socket": "/run/tailscale/tailscaled.sock"}).warnings
    assert warning == "tailscale.hostname: no effect, as mesh.mode is none"


def test_to_set_aside_without_writing_has_no_effect():
    assert IDLE in loaded({"cni.setAside": "true"}).warnings
    assert loaded({"cni.setAside": "true", "cni.template": "/etc/headcni/template"}).warnings == ()
