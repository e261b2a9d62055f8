"""`headcni config` and `headcni daemon`: the two verbs that build the daemon's configuration."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cni.spec import Code, Refusal
from reconciler.config import Config, Problem, load
from reconciler.mesh.secrets import SECRETS, have_key
from reconciler.operate.output import emit, table
from reconciler.settings import SETTINGS, as_text

Loader = Callable[[], Config | list[Problem]]


def loader(args: Namespace) -> Loader:
    """Called again, it reads file and environment again: what a reload needs."""
    flags = {setting.key: given for setting in SETTINGS if (given := getattr(args, setting.field, None)) is not None}
    file = args.config or os.environ.get("HEADCNI_CONFIG")
    return lambda: load(flags, os.environ, Path(file) if file else None)


def no_root() -> Refusal | None:
    """Who may not touch links would find out one pod at a time."""
    if os.geteuid() == 0:
        return None
    return Refusal(Code.IO_FAILURE, "only root can change links, routes and sysctls", "run it as root, or with sudo")


def daemon(args: Namespace) -> int | Refusal:
    load_config = loader(args)
    config = load_config()
    if not isinstance(config, Config):
        return refused(config)
    if refusal := no_root():
        return refusal
    from reconciler import daemon
    from reconciler.operate import log

    log.setup(config.log_level)
    return daemon.run(config, reload=load_config)


def check(args: Namespace) -> int | Refusal:
    keys = {each.variable: os.environ.get(each.variable, "") for each in SECRETS}  # no file can hold these
    loaded = _told(load({}, keys, Path(args.file)))
    if isinstance(loaded, Refusal):
        return loaded
    print(f"{args.file}: valid")
    return 0


def config(args: Namespace) -> int | Refusal:
    loaded = _told(loader(args)())
    if isinstance(loaded, Refusal):
        return loaded
    rows: list[Sequence[Any]] = [(s.key, getattr(loaded, s.field), loaded.origins[s.key]) for s in SETTINGS]
    rows += [(each.variable, "set" if have_key(each.variable, None) else "not set", "environment") for each in SECRETS]
    if args.output in ("json", "yaml"):
        emit({key: {"value": _plain(value), "origin": origin} for key, value, origin in rows}, args.output)
        return 0
    shown = [(key, as_text(value), origin) for key, value, origin in rows]
    print(table(("KEY", "VALUE", "FROM"), shown, args.output == "wide"))
    return 0


def _told(loaded: Config | list[Problem]) -> Config | Refusal:
    if not isinstance(loaded, Config):
        return refused(loaded)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return loaded


def refused(problems: Sequence[Problem]) -> Refusal:
    count = f"{len(problems)} problem{'s'[: len(problems) != 1]} in the configuration"
    return Refusal(Code.INVALID_CONFIGURATION, count, "\n".join(f"  {problem}" for problem in problems))


def _plain(value: Any) -> Any:
    """Numbers, booleans, text and lists of text: what JSON knows."""
    if isinstance(value, tuple):
        return [str(each) for each in value]
    return value if isinstance(value, bool | int | None) else str(value)
