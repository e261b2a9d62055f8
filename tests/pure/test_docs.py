"""What docs/ prints from the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cni.spec import REMEDIES, Code
from reconciler.install import codes as install
from reconciler.kube import codes as kube
from reconciler.mesh import codes
from reconciler.mesh.codes import Trouble
from reconciler.mesh.secrets import SECRETS
from reconciler.operate.docs import pages
from reconciler.operate.states import mermaid
from reconciler.operate.status import Status
from reconciler.settings import SETTINGS
from statemachine import attachment, intent

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", pages())
def test_a_printed_page_is_up_to_date(name):
    assert (DOCS / name).read_text() == pages()[name], "run: python -m reconciler.operate.docs"


def test_the_diagram_is_the_output_of_the_command(capsys):
    from reconciler.operate.cli import main

    main(["states", "-o", "mermaid"])
    assert capsys.readouterr().out.strip() == mermaid()
    assert mermaid() in pages()["states.md"]


@pytest.mark.parametrize(
    ("codes", "remedies"),
    [
        (Code, REMEDIES),
        (Trouble, codes.REMEDIES),
        (kube.Trouble, kube.REMEDIES),
        (install.Trouble, install.REMEDIES),
    ],
)
def test_every_code_has_a_cure_and_is_in_the_page(codes, remedies):
    assert set(remedies) == set(codes)
    assert all(what and cure for what, cure in remedies.values())
    rows = [line.split(" | ")[0] for line in pages()["errors.md"].splitlines()]
    assert [int(code) for code in codes if f"| {int(code)}" not in rows] == []


def test_no_code_means_two_things():
    everything = [int(each) for kind in (Code, Trouble, kube.Trouble, install.Trouble) for each in kind]
    assert sorted(everything) == sorted(set(everything))


def test_the_variables_that_hold_a_key_are_described():
    assert [each.variable for each in SECRETS if f"| `{each.variable}` |" not in pages()["configuration.md"]] == []


def test_a_cure_that_runs_the_plugin_names_its_path_and_does_not_wait_for_input():
    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    commands = re.findall(r"CNI_COMMAND=[A-Z]+ [^`\n]*", text)
    assert commands
    assert [each for each in commands if not re.search(r"^\S+ /opt/cni/bin/headcni\b.*</dev/null$", each)] == []


def test_every_setting_is_described_with_its_reason():
    assert all(len(setting.help) > 20 and setting.help.endswith(".") for setting in SETTINGS)


def test_formats_names_every_format_and_every_field_of_a_record():
    text = (DOCS / "formats.md").read_text()
    formats = (attachment.FORMAT, intent.FORMAT, "headcni/status/1", "headcni/host/1")
    names = (*attachment.Attachment.__dataclass_fields__, *Status.__dataclass_fields__)
    fields = [name for name in names if f"`{name}`" not in text]
    assert [name for name in formats if name not in text] == []
    assert fields == []
