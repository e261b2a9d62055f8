"""The template of the network configuration: whether a daemon may hand it to the runtime as it is. Pure.

What is wrong with it would be told pod by pod, by failing ADDs; here it is told once, and nothing is written. So it is
read by the same code that reads it in each call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from cni.plugin import DEFAULT_STATE_DIR
from cni.spec import Refusal
from reconciler.install.codes import Trouble
from reconciler.netconf import parse
from reconciler.parsers import real_path

KEY = "cni.template"
TYPE = "headcni"


def check(file: Path, content: bytes | Refusal | None, state_dir: Path) -> bytes | Refusal:
    """`content`: as `reconciler.node.files` has it."""
    if content is None:
        return _refused(file, "does not exist", "name an existing file")
    if isinstance(content, Refusal):
        return Refusal(Trouble.TEMPLATE, f"{KEY}: {content.msg}", content.details)
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return _refused(file, f"is not JSON: {error}", "correct it at the place named")
    plugins = ours(body.get("plugins")) if isinstance(body, dict) else []
    if not plugins:
        cure = f'write {{"plugins": [{{"type": "{TYPE}", …}}]}}, as docs/configuration.md has it'
        return _refused(file, f"has no plugin of type {TYPE}", cure)
    for plugin in plugins:
        as_called = {**plugin, "cniVersion": body.get("cniVersion", ""), "name": body.get("name")}
        understood = parse(orjson.dumps(as_called))
        if isinstance(understood, Refusal):
            return _refused(file, f"cannot be used: {understood.msg}", understood.details)
        if (other := state_dir_of(plugin)) != str(state_dir):
            cure = f"write {state_dir} there, or set stateDir to {other}"
            return _refused(file, f"has state_dir {other}, but this daemon works in {state_dir}", cure)
    return content


def ours(plugins: Any) -> list[dict[str, Any]]:
    """Those of the list that are HeadCNI; none if it is no list."""
    listed = plugins if isinstance(plugins, list) else []
    return [each for each in listed if isinstance(each, dict) and each.get("type") == TYPE]


def state_dir_of(plugin: dict[str, Any]) -> str:
    given = plugin.get("state_dir")
    if not isinstance(given, str) or not given:
        given = DEFAULT_STATE_DIR.decode()
    return given if "\0" in given else str(real_path(given))


def _refused(file: Path, what: str, cure: str) -> Refusal:
    return Refusal(Trouble.TEMPLATE, f"{KEY} = {file} {what}", cure)
