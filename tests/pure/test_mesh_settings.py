"""The settings of the mesh: what they may be, what must hold between them, and that no key is ever shown."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import orjson
import pytest
from configured import loaded, refused

from reconciler.config import changes
from reconciler.operate.cli import main
from reconciler.parsers import Wrong, tags

OWN, BASE, ROUTES = "network.podCIDR.nodeLocal", "network.podCIDR.base", "network.staticRoutes"
KEY = "0f" * 24
MESH = {"mesh.mode": "tailscale"}


# --- each by itself


def test_defaults():
    config = loaded(MESH)
    assert (config.mesh_mode, config.mesh_approval, config.mesh_advertise) == ("tailscale", "auto", "node")
    assert (config.fail_closed, config.repair_preferences, config.accept_dns) == (True, True, False)
    assert (config.guard, config.probe_port) == ((), 9472)
    assert (config.headscale_url, config.tailscale_hostname, config.tailscale_tags) == ("", "", ())
    assert (config.auth_key_file, config.api_key_file, config.headscale_ca_file) == (None, None, None)
    assert config.tailscale_socket == Path("/var/run/tailscale/tailscaled.sock")
    assert config.warnings == ()


def test_everything_from_a_file(yaml):
    config = loaded(
        {},
        {},
        yaml("""
mesh: {mode: tailscale, approval: key, advertise: pod, failClosed: false, guard: [192.0.2.0/24, 198.51.100.0/24],
       probePort: 0, repairPreferences: false}
headscale: {url: 'HTTPS://HS.example.com:443/', authKeyFile: /s/auth, apiKeyFile: /s/api, caFile: /s/ca.pem}
tailscale: {socket: /run/ts.sock, hostname: node-7, tags: ['tag:k8s', 'tag:node'], acceptDns: true}
"""),
    )
    assert (config.mesh_approval, config.mesh_advertise, config.fail_closed) == ("key", "pod", False)
    assert config.guard == (ip_network("192.0.2.0/24"), ip_network("198.51.100.0/24"))
    assert (config.probe_port, config.repair_preferences, config.accept_dns) == (0, False, True)
    assert config.headscale_url == "https://hs.example.com"
    assert [config.auth_key_file, config.api_key_file, config.headscale_ca_file] == [
        Path(f"/s/{name}") for name in ("auth", "api", "ca.pem")
    ]
    assert (config.tailscale_socket, config.tailscale_hostname) == (Path("/run/ts.sock"), "node-7")
    assert config.tailscale_tags == ("tag:k8s", "tag:node")


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("tailscale.socket", "tailscale_socket"),
        ("headscale.authKeyFile", "auth_key_file"),
        ("headscale.apiKeyFile", "api_key_file"),
        ("headscale.caFile", "headscale_ca_file"),
    ],
)
def test_a_file_that_is_a_link_is_not_followed_before_it_is_used(key, field, tmp_path):
    """A socket is made anew, and a mounted Secret is renewed, by turning a link."""
    (tmp_path / "now").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "now")
    assert getattr(loaded({**MESH, key: str(tmp_path / "link")}), field) == tmp_path / "link"


@pytest.mark.parametrize(
    ("key", "value", "what", "cure"),
    [
        ("mesh.approval", "manual", "unknown", "auto, approver, key"),
        ("mesh.advertise", "pods", "unknown", "node, pod"),
        ("mesh.failClosed", "maybe", "neither true nor false", "true or false"),
        ("mesh.guard", "192.0.2.7/24", "bits set beyond", "write 192.0.2.0/24"),
        ("mesh.guard", "lan", "is not a CIDR", "prefix length"),
        ("mesh.probePort", "65536", "out of range", "0 to 65535"),
        ("mesh.repairPreferences", "often", "neither true nor false", "true or false"),
        ("headscale.caFile", "ca.pem", "not an absolute path", "begins with /"),
        ("tailscale.socket", "", "not an absolute path", "begins with /"),
        ("tailscale.socket", "/run/a\0b", "not an absolute path", "begins with /"),
        ("tailscale.hostname", "node.example", "not a host name", "no dot"),
        ("tailscale.hostname", "-node", "not a host name", "hyphens"),
        ("tailscale.hostname", "n" * 64, "not a host name", "at most 63"),
        ("tailscale.tags", "k8s", "'k8s' is not a tag", "like tag:k8s"),
        ("tailscale.tags", "tag:k8s,tag:", "'tag:' is not a tag", "like tag:k8s"),
        ("tailscale.tags", "tag:7", "'tag:7' is not a tag", "like tag:k8s"),
        ("tailscale.tags", [7], "7 is not a tag", "like tag:k8s"),
        ("tailscale.acceptDns", "x", "neither true nor false", "true or false"),
    ],
)
def test_each_wrong_value_is_told_with_its_cure(key, value, what, cure):
    (problem,) = refused({**MESH, key: value})
    assert problem.key == key
    assert what in problem.what
    assert cure in problem.cure


@pytest.mark.parametrize("url", ["https://hs.example.com/api/v1", "ftp://hs.example.com", "hs.example.com", 7])
def test_a_wrong_url_is_named_once_with_the_form_it_must_have(url):
    (problem,) = refused({**MESH, "headscale.url": url})
    assert str(problem).count(str(url)) == 1
    assert "http" in problem.cure


def test_tags_are_told_once_each():
    assert tags("tag:a,tag:b,tag:a") == ("tag:a", "tag:b")
    assert isinstance(tags("tag:a b"), Wrong)


def test_what_sighup_applies_and_what_needs_a_start():
    new = loaded(
        {**MESH, "mesh.repairPreferences": False, "tailscale.acceptDns": True, "headscale.authKeyFile": "/s/a"}
    )
    found = {(change.key, change.old, change.new): change.needs_restart for change in changes(loaded(MESH), new)}
    assert found == {
        ("mesh.repairPreferences", "true", "false"): False,
        ("tailscale.acceptDns", "false", "true"): False,
        ("headscale.authKeyFile", "", "/s/a"): True,
    }


# --- no key is taken from where others read, and none is shown


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        ("headscale.authKey", "headscale.authKeyFile, or set HEADCNI_AUTH_KEY"),
        ("headscale.preauth_key", "headscale.authKeyFile, or set HEADCNI_AUTH_KEY"),
        ("authkey", "headscale.authKeyFile, or set HEADCNI_AUTH_KEY"),
        ("headscale.apiKey", "headscale.apiKeyFile, or set HEADCNI_API_KEY"),
    ],
)
def test_a_key_in_the_file_is_refused_and_not_repeated(yaml, key, cure):
    *above, leaf = key.split(".")
    text = f"{leaf}: {KEY}"
    (problem,) = refused({}, {}, yaml(f"{above[0]}: {{{text}}}" if above else text))
    assert problem.key == key
    assert "is a secret" in problem.what
    assert f"write it to a file and name that with {cure}" in problem.cure
    assert KEY not in str(problem)


@pytest.mark.parametrize(
    "text",
    [
        f"headscale: {{key: {KEY}}}",
        f"headscale: {KEY}",
        f"headscale: {{authKeyFile: {KEY}}}",
        f"headscale: {{apiKeyFile: [{KEY}]}}",
        f"headscale: {{url: 'https://user:{KEY}@hs.example.com'}}",
        f"headscale:\n  authKey: {KEY}: x\n",
        f"headscale: {{authKey: {KEY}\n",
    ],
)
def test_a_key_in_the_wrong_place_of_the_file_is_not_repeated(yaml, text):
    problems = refused({}, {}, yaml(text))
    assert problems
    assert KEY not in "\n".join(map(str, problems))


@pytest.mark.parametrize("given", [{}, {"HEADCNI_AUTH_KEY": KEY, "HEADCNI_API_KEY": KEY}, {"HEADCNI_AUTH_KEY": " "}])
def test_config_says_whether_keys_are_set_and_never_shows_one(given, monkeypatch, capsys):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["config", "-o", "json"]) == 0
    out, err = capsys.readouterr()
    shown = orjson.loads(out)
    for name in ("HEADCNI_AUTH_KEY", "HEADCNI_API_KEY"):
        assert shown[name]["value"] == ("set" if given.get(name, "").strip() else "not set")
    assert KEY not in out + err
    assert shown["headscale.authKeyFile"] == {"value": None, "origin": "default"}


def test_flags_of_the_mesh_are_settings_like_others(capsys):
    flags = ["--mesh", "tailscale", "--no-fail-closed", "--auth-key-file", "/s/a", "--tailscale-socket", "/s/t"]
    assert main(["config", *flags]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["mesh.failClosed"] == ["false", "flag", "--fail-closed"]
    assert rows["headscale.authKeyFile"] == ["/s/a", "flag", "--auth-key-file"]
    assert rows["tailscale.socket"] == ["/s/t", "flag", "--tailscale-socket"]


@pytest.mark.parametrize(("given", "status"), [("", 1), (KEY, 0)])
def test_a_file_is_checked_with_the_keys_that_it_cannot_hold(given, status, yaml, monkeypatch, capsys):
    monkeypatch.setenv("HEADCNI_API_KEY", given)
    file = yaml("mesh: {mode: tailscale, approval: key}\nheadscale: {url: 'https://hs.example.com'}\n")
    assert main(["config", "check", str(file)]) == status
    assert KEY not in "".join(capsys.readouterr())


# --- between settings


def test_approving_with_a_key_needs_headscale_and_the_key():
    problems = refused({**MESH, "mesh.approval": "key"})
    assert [problem.key for problem in problems] == ["mesh.approval"] * 2
    assert "headscale.url" in problems[0].cure
    assert "HEADCNI_API_KEY" in problems[1].cure


@pytest.mark.parametrize(
    ("flags", "environ"), [({"headscale.apiKeyFile": "/s/api"}, {}), ({}, {"HEADCNI_API_KEY": KEY})]
)
def test_the_key_may_come_from_its_file_or_its_variable(flags, environ):
    needed = {**MESH, "mesh.approval": "key", "headscale.url": "https://hs.example.com"}
    assert loaded({**needed, **flags}, environ).mesh_approval == "key"


def test_wrong_values_cause_no_second_complaint():
    wrong = {"headscale.url": "x", "headscale.apiKeyFile": "x"}
    keys = [problem.key for problem in refused({**MESH, "mesh.approval": "key", **wrong})]
    assert keys == ["headscale.url", "headscale.apiKeyFile"]


@pytest.mark.parametrize("guard", ["10.244.0.0/16", "10.244.7.0/24", "10.128.0.0/9", "0.0.0.0/0"])
def test_a_guard_that_keeps_pods_packets_out_of_the_mesh_is_refused(guard):
    (problem,) = refused({**MESH, "mesh.guard": guard, OWN: "10.244.1.0/24"})
    assert problem.key == "mesh.guard"
    assert f"{guard} overlaps network.podCIDR.base 10.244.0.0/16" in problem.what


@pytest.mark.parametrize(
    "guard",
    ["10.244.1.0/24", "10.244.1.128/25", "10.244.2.0/24", "192.0.2.0/24,198.51.100.0/24", "fd00::/8", "10.245.0.0/16"],
)
def test_a_guard_may_cover_what_does_not_go_through_the_mesh(guard):
    elsewhere = {OWN: "10.244.1.0/24", ROUTES: "10.244.2.0/24=192.0.2.2", "mesh.failClosed": False}
    assert loaded({**MESH, **elsewhere, "mesh.guard": guard}).warnings == ()


def test_without_a_mesh_none_of_it_is_judged_but_that_it_has_no_effect_is_said(yaml):
    file = yaml("mesh: {mode: none, approval: key, guard: 0.0.0.0/0}\nheadscale: {url: 'https://hs'}\n")
    (warning,) = loaded({}, {"HEADCNI_FAIL_CLOSED": "true"}, file).warnings
    assert warning == "mesh.approval, mesh.failClosed, mesh.guard, headscale.url: no effect, as mesh.mode is none"


@pytest.mark.parametrize("dst", ["10.244.2.0/24", "10.244.0.0/16"])
def test_a_static_route_to_pods_beside_the_mesh_is_a_hole_in_the_fence(dst):
    (warning,) = loaded({**MESH, ROUTES: f"{dst}=192.0.2.2"}).warnings
    assert dst in warning
    assert "in clear" in warning


@pytest.mark.parametrize(
    "flags",
    [
        {ROUTES: "10.9.0.0/16=192.0.2.2"},
        {ROUTES: "10.0.0.0/8=192.0.2.2"},  # wider than the fence, so behind it
        {ROUTES: "10.244.2.0/24=192.0.2.2", "mesh.failClosed": False},
    ],
)
def test_a_static_route_that_the_fence_does_not_mind(flags):
    assert loaded({**MESH, **flags}).warnings == ()


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ({BASE: "100.64.0.0/16"}, {}, ["network.podCIDR.base: 100.64.0.0/16", "tailscaled drops"]),
        ({"mesh.guard": "100.100.0.0/16"}, {}, ["mesh.guard: 100.100.0.0/16", "MagicDNS"]),
        ({"headscale.authKeyFile": "/s/a"}, {}, ["headscale.url: not set", "is not joined"]),
        ({}, {"HEADCNI_AUTH_KEY": KEY}, ["headscale.url: not set", "is not joined"]),
        ({"headscale.url": "http://hs"}, {"HEADCNI_API_KEY": KEY}, ["headscale.url: http://hs", "in clear"]),
    ],
)
def test_what_is_suspicious_is_a_warning(flags, environ, words):
    (warning,) = loaded({**MESH, **flags}, environ).warnings
    assert [word for word in words if word not in warning] == []
    assert KEY not in warning


def test_an_unencrypted_url_is_no_matter_where_no_api_key_goes_there():
    assert loaded({**MESH, "headscale.url": "http://hs", "headscale.authKeyFile": "/s/a"}).warnings == ()
