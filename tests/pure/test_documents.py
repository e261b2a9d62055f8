"""What the pages for people name exists: files, folders, functions, links, the command's verbs, the make targets."""

import re
from functools import cache
from pathlib import Path

import pytest

from reconciler.operate.cli import build_parser

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
TOP = ("cni", "statemachine", "reconciler", "fixtures", "tests", "benchmarks", "deploy", "docs")


@cache
def source() -> str:
    return "\n".join(file.read_text() for top in TOP for file in (ROOT / top).glob("**/*.py"))


def marked(page: Path) -> set[str]:
    """What stands between backticks in running text."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", text))


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
    return request.param


def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_path_exists(page):
    paths = [each for each in marked(page) if each.split("/")[0] in TOP and re.fullmatch(r"[\w./-]+", each)]
    assert [each for each in paths if "/" in each and not (ROOT / each).exists()] == []


def test_every_function_exists(page):
    named = [match for each in marked(page) for match in re.findall(r"^(?:\w+\.)?(\w+)\(\)$", each)]
    named += [match for each in marked(page) for match in re.findall(r"^[A-Z]\w*[a-z]\w*\.([a-z_]+)$", each)]
    assert [each for each in named if not re.search(rf"def {each}\b|    {each}:", source())] == []


def test_every_verb_exists(page):
    known = build_parser().format_help()
    verbs = [match for each in marked(page) for match in re.findall(r"^headcni ([a-z]+)", each)]
    assert [verb for verb in verbs if not re.search(rf"^    {verb}\b", known, re.MULTILINE)] == []


def test_every_make_target_exists(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [match for each in marked(page) for match in re.findall(r"^make ([a-z-]+)$", each)]
    assert [each for each in named if each not in targets] == []
