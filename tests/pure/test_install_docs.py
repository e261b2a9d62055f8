"""The commands of the installation pages are ones that our programs take: flags, values of the chart, settings, steps.

Commands of others (kubectl, k3s, kubeadm) are not looked at, but for what they run of ours.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
import yaml

from reconciler.config import Config, load
from reconciler.migrate.flannel import Found
from reconciler.migrate.seen import Seen
from reconciler.migrate.steps import steps
from reconciler.operate.cli import build_parser

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs/install").glob("*.md")), ROOT / "docs/migrate-flannel.md"]
SCRIPT, CHART = "deploy/deploy-with-helm.sh", "deploy/chart/headcni"
SCHEMA = json.loads((ROOT / CHART / "values.schema.json").read_text())
K3S = {"flannel-backend", "disable-network-policy"}  # what its configuration takes, of what we name
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, kind: str) -> list[str]:
    found = [
        (match[2], re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE))
        for match in FENCE.finditer(page.read_text())
    ]
    return [text for each, text in found if each == kind]


def commands(page: Path) -> Iterator[list[str]]:
    """As words; what a here-document holds is text."""
    for block in blocks(page, "") + blocks(page, "sh"):
        text = re.sub(r"^.*<<'END'.*\n(.*\n)*?END$", "", block.replace("\\\n", " "), flags=re.MULTILINE)
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def ours(page: Path, program: str) -> list[list[str]]:
    """The arguments of each call, also through `kubectl exec … --` and `kubectl debug … --`."""
    found = []
    for words in commands(page):
        called = words[words.index("--") + 1 :] if words[0] == "kubectl" and "--" in words else words
        if called and (called[0] == program or called[0].endswith(f"/bin/{program}")):
            found.append(called[1:])
    return found


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request):
    return request.param


def test_every_call_of_the_command_is_one_that_it_takes(page):
    for arguments in ours(page, "headcni"):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                build_parser().parse_args(arguments)
            except SystemExit:
                pytest.fail(f"headcni {shlex.join(arguments)}: {said.getvalue()}")


def test_every_option_of_the_script_is_one_that_it_has(page):
    taken = set(re.findall(r"(?<=[ |])--?[a-zA-Z][a-z-]*(?=\)| \|)", (ROOT / SCRIPT).read_text()))
    for arguments in ours(page, SCRIPT):
        given = [each.partition("=")[0] for each in arguments if each.startswith("-")]
        assert [each for each in given if each not in taken] == []


def settings(arguments: list[str]) -> Iterator[tuple[str, str]]:
    for flag, value in pairwise(arguments):
        if flag == "--set":
            for each in re.split(r",(?![^{]*\})", value):
                key, _, given = each.partition("=")
                yield key, given


def value_of(text: str):
    """As Helm reads it: a list, or what YAML makes of it; a shell's variable is text."""
    return text[1:-1].split(",") if text.startswith("{") else yaml.safe_load(text)


def test_every_value_that_is_set_is_one_that_the_chart_takes(page):
    for arguments in [*ours(page, SCRIPT), *ours(page, "helm")]:
        for key, given in settings(arguments):
            values = value_of(given)
            for part in reversed(key.split(".")):
                values = {part: values}
            assert list(jsonschema.Draft7Validator(SCHEMA).iter_errors(values)) == [], key
    charts = [each for arguments in ours(page, "helm") for each in arguments if each.startswith("deploy/")]
    assert set(charts) <= {CHART}


def test_every_block_of_yaml_is_of_the_chart_of_the_daemon_or_of_k3s(page):
    for text in blocks(page, "yaml"):
        body = yaml.safe_load(text)
        if set(body) <= K3S:
            continue
        if set(body) <= SCHEMA["properties"].keys():
            assert list(jsonschema.Draft7Validator(SCHEMA).iter_errors(body)) == [], text
        else:
            assert isinstance(load(dict(flat(body)), {}, None), Config), text


def flat(body, above=""):
    for key, value in body.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


# --- pages of their own


@pytest.mark.parametrize("name", ["kubeadm.md", "k3s.md"])
def test_the_one_command_comes_first(name):
    first = next(commands(ROOT / "docs/install" / name))
    assert first[0] == SCRIPT
    assert first[1:] == ["-u", "https://headscale.example.com", "-K", "auth-key"]


def test_the_way_from_flannel_is_the_one_that_the_command_prints():
    page = ROOT / "docs/migrate-flannel.md"
    written = [shlex.join(words) for words in commands(page)]
    usual = steps(Seen("a", Found(), None, None))  # type: ignore[arg-type]
    printed = [command.removeprefix("on NODE: ") for step in usual for command in step.commands]
    assert len(printed) > 8
    assert [
        each for each in map(shlex.split, printed) if shlex.join(each) not in written and each[0] != "headcni"
    ] == []


def test_every_page_has_something_that_was_looked_at(page):
    assert ours(page, "headcni") or ours(page, SCRIPT)
