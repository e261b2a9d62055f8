"""`headcni mesh policy`: what is printed for whom, and what `--apply` asks of Headscale."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from samples import STATUS

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Generation
from reconciler.operate.cli import main
from reconciler.operate.status import encode_status

KEY = "hskey-api-secret"
URL = "https://headscale.example.com"


class FakeHeadscale:
    """Its policy, and how it was reached."""

    text = ""
    answer: Refusal | None = None

    def __init__(self, url, key, ca_file):
        self.url, self.key, self.ca_file = url, key, ca_file
        self.closed = False
        FakeHeadscale.made.append(self)

    async def generation(self):
        key = self.key()
        return key if isinstance(key, Refusal) else Generation.APPROVALS

    async def policy(self):
        return FakeHeadscale.text

    async def set_policy(self, text):
        if FakeHeadscale.answer is None:
            FakeHeadscale.text = text
        return FakeHeadscale.answer

    async def close(self):
        self.closed = True


@pytest.fixture
def headscale(monkeypatch):
    monkeypatch.setattr("reconciler.mesh.headscale.HeadscaleClient", FakeHeadscale)
    FakeHeadscale.text, FakeHeadscale.answer, FakeHeadscale.made = "", None, []
    return FakeHeadscale


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    for name in ("HEADCNI_CONFIG", "HEADCNI_CLUSTER_CIDR", "HEADCNI_API_KEY", "HEADCNI_HEADSCALE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*argv):
        code = main(["mesh", "policy", "--state-dir", str(tmp_path / "state"), *argv])
        return code, *capsys.readouterr()

    return run


def routes(out):
    return orjson.loads(out)["autoApprovers"]["routes"]


def test_the_snippet_alone_goes_to_standard_output(run):
    code, out, err = run("--owner", "tag:k8s", "--cluster-cidr", "10.8.0.0/16", "--cluster-cidr", "fd08::/48")
    assert code == 0
    assert orjson.loads(out) == {"autoApprovers": {"routes": {"10.8.0.0/16": ["tag:k8s"], "fd08::/48": ["tag:k8s"]}}}
    assert all(line.startswith("note: ") for line in err.splitlines())


def test_without_an_owner_there_is_a_place_for_one_and_a_note(run):
    code, out, err = run()
    assert code == 0
    assert routes(out) == {"10.244.0.0/16": ["USER@"]}
    assert "USER@ stands for the owner" in err


def test_the_nodes_own_tag_is_the_owner(run, monkeypatch):
    monkeypatch.setenv("HEADCNI_TAILSCALE_TAGS", "tag:pods,tag:other")
    assert routes(run()[1]) == {"10.244.0.0/16": ["tag:pods"]}


def test_what_the_daemon_of_this_node_was_told_wins_over_the_default_only(run, tmp_path):
    (tmp_path / "state").mkdir()
    said = replace(STATUS, mesh={"mode": "tailscale", "cluster_cidrs": ["10.9.0.0/16"]})
    (tmp_path / "state" / "status.json").write_bytes(encode_status(said))
    assert list(routes(run()[1])) == ["10.9.0.0/16"]
    assert list(routes(run("--cluster-cidr", "10.8.0.0/16")[1])) == ["10.8.0.0/16"]


def test_as_yaml(run):
    import yaml

    out = run("--owner", "pods@", "-o", "yaml")[1]
    assert yaml.safe_load(out) == {"autoApprovers": {"routes": {"10.244.0.0/16": ["pods@"]}}}


def test_a_wrong_configuration_is_told(run):
    code, out, err = run("--cluster-cidr", "10.8.0.1/16")
    assert (code, out) == (1, "")
    assert "has bits set beyond its prefix length" in err


@pytest.mark.parametrize(
    ("argv", "why", "cure"),
    [
        (["--headscale-url", URL], "whose routes", "--owner"),
        (["--owner", "tag:k8s"], "headscale.url is not set", "--headscale-url"),
    ],
)
def test_apply_asks_for_what_it_needs(run, headscale, argv, why, cure):
    code, out, err = run("--apply", *argv)
    assert (code, out) == (1, "")
    assert why in err
    assert cure in err
    assert headscale.made == []


@pytest.fixture
def apply(run, headscale, tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    given = ["--apply", "--owner", "tag:k8s", "--headscale-url", URL, "--api-key-file", str(tmp_path / "key")]
    return lambda: run(*given)


def test_apply_adds_once(apply, headscale):
    first, second = apply(), apply()
    assert first[0] == second[0] == 0
    assert first[1].startswith("added autoApprovers for 10.244.0.0/16 of tag:k8s")
    assert second[1].startswith("nothing to add: ")
    assert routes(headscale.text) == {"10.244.0.0/16": ["tag:k8s"]}
    assert [each.url for each in headscale.made] == [URL, URL]
    assert all(each.closed and each.key() == KEY for each in headscale.made)


def test_a_policy_that_cannot_be_written_is_told_and_the_connection_closed(apply, headscale):
    headscale.answer = Refusal(Trouble.HEADSCALE_POLICY, "Headscale reads its policy from a file", "by hand")
    code, out, err = apply()
    assert (code, out) == (1, "")
    assert "reads its policy from a file\nby hand" in err
    assert headscale.made[0].closed


def test_no_key_is_told_without_a_word_of_what_is_in_the_file(apply, tmp_path):
    (tmp_path / "key").write_text("two\nlines")
    code, out, err = apply()
    assert (code, out) == (1, "")
    assert f"{tmp_path / 'key'} holds several lines" in err
    assert "two" not in err
