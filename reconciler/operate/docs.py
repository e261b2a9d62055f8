"""The pages of docs/ that are printed from the code: `python -m reconciler.operate.docs [DIRECTORY]`.

What a table in the code says already is not written a second time by hand. A test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cni.spec import REMEDIES
from reconciler.install.codes import REMEDIES as INSTALL_REMEDIES
from reconciler.kube.codes import REMEDIES as KUBE_REMEDIES
from reconciler.mesh.codes import REMEDIES as MESH_REMEDIES
from reconciler.mesh.secrets import SECRETS
from reconciler.operate.netkeys import IPAM, NETWORK, Key
from reconciler.operate.states import arrows, mermaid, work
from reconciler.settings import SETTINGS, as_text

EXAMPLE = """\
{
  "cniVersion": "1.0.0",
  "name": "tailscale-cni",
  "plugins": [
    {"type": "headcni", "ipam": {"type": "headcni-ipam", "subnet": "10.244.1.0/24"}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}"""
NOTICE = "<!-- Printed by `python -m reconciler.operate.docs`; a test holds it equal. -->"


def pages() -> dict[str, str]:
    return {"states.md": _states(), "errors.md": _errors(), "configuration.md": _configuration()}


def _states() -> str:
    steps = ("In state", "the daemon must", "after a failure it waits", "then times", "at most", "and tries")
    return _page(
        "States of an attachment",
        "One interface of one container passes through these states, and through no others: the table in",
        "`statemachine/machine.py` refuses every move that is not drawn here. An error is not a state but a field of",
        "the record, with the attempt and the time of the next try. `headcni states -o mermaid` prints the drawing.",
        "",
        "```mermaid",
        mermaid(),
        "```",
        "",
        *_table(("From", "Trigger", "To", "Meaning"), arrows()),
        "",
        "An attachment made by a call of `headcni-ipam` alone has reached its goal when it is allocated.",
        "",
        "## What leads on, and how it is tried again",
        "Each wait is up to a fifth shorter or longer, drawn from the attachment's key, so that not all try at once.",
        "",
        *_table(steps, work()),
        "",
        "Only an ADD that still waits is ever refused. What a running pod was promised is tried for ever.",
    )


def _errors() -> str:
    titles = ("Code", "Means", "Cure")
    return _page(
        "Error codes",
        "What the plugin prints as `code` when a call fails. Codes below 100 are the CNI specification's, those from",
        "100 are HeadCNI's own and never change their meaning. The message of an error names field and value.",
        "Errors of an IPAM plugin that HeadCNI delegates to are passed on under that plugin's own code.",
        "",
        *_table(titles, [(str(int(code)), *told) for code, told in REMEDIES.items()]),
        "",
        "## The mesh",
        "None of these fails a call: a pod gets its network whatever the mesh does. They are told by `headcni status`,",
        "`headcni mesh` and the daemon's log.",
        "",
        *_table(titles, [(str(int(trouble)), *told) for trouble, told in MESH_REMEDIES.items()]),
        "",
        "## The node and Kubernetes",
        "None of these fails a call either. They are told by `headcni status`, `headcni podcidr`, `headcni doctor` and",
        "the daemon's log.",
        "",
        *_table(titles, [(str(int(trouble)), *told) for trouble, told in KUBE_REMEDIES.items()]),
        "",
        "## What is put on the host",
        "Of the binaries `headcni install` tells and refuses, of the network configuration `headcni status` and the",
        "daemon's log; nothing of it fails a call.",
        "",
        *_table(titles, [(str(int(trouble)), *told) for trouble, told in INSTALL_REMEDIES.items()]),
    )


def _configuration() -> str:
    rows = [
        (
            f"`{s.key}`",
            _code(s.flag),
            _code(s.env),
            _code(as_text(s.default)),
            s.help + (" (SIGHUP)" if s.live else ""),
        )
        for s in SETTINGS
    ]
    secrets = [(_code(secret.variable), _code(secret.file_key), secret.meaning) for secret in SECRETS]
    return _page(
        "Configuration",
        "The daemon has settings, one set for the node; the network configuration in /etc/cni/net.d comes with each",
        "call of the plugin, and says what this network's pods get.",
        "",
        "## The daemon",
        "A flag wins over an environment variable, that over the file (`--config FILE` or `HEADCNI_CONFIG`, YAML),",
        "that over the default. Lists are written with commas in a variable; their flags may be repeated. An empty",
        "variable counts as not given. All problems are reported at once. `headcni config` prints every value and",
        "where it comes from, `headcni config check FILE` tests a file. Settings marked (SIGHUP) take effect on that",
        "signal, the others at the next start.",
        "",
        *_table(("Key", "Flag", "Variable", "Default", "Meaning"), rows),
        "",
        "### Keys of Headscale",
        "Neither is a setting: a key comes from its variable or, where that is empty, from the file that the setting",
        "names; never from a flag or from the configuration file. A file holds the key and nothing else, and is read",
        "whenever the key is needed, so a key can be renewed without a restart.",
        "",
        *_table(("Variable", "Or a file, named by", "Meaning"), secrets),
        "",
        "## The network configuration",
        "All problems are told at once, with code 7, field, value and cure. An unknown key has no effect and is warned",
        "about once. The whole file, as /etc/cni/net.d/10-headcni.conflist:",
        "",
        "```json",
        EXAMPLE,
        "```",
        "",
        *_keys(NETWORK),
        "",
        "### ipam",
        "For `type: headcni-ipam`. Other IPAM plugins get the configuration as it is, and have keys of their own.",
        "",
        *_keys(IPAM),
    )


def _keys(keys: Sequence[Key]) -> list[str]:
    return _table(("Key", "Default", "Meaning"), [(f"`{key.name}`", key.default, key.meaning) for key in keys])


def _page(title: str, *lines: str) -> str:
    return "\n".join([f"# {title}", NOTICE, "", *lines]) + "\n"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(titles)
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (titles, rule, *rows)]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, text in pages().items():
        (directory / name).write_text(text)
        print(directory / name)
