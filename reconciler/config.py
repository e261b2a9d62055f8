"""The daemon's configuration: one value for each setting, and where it came from.

A flag wins over an environment variable, that over the file, that over the default; a setting may turn the middle
two around, and says why. An empty variable or a key without a value counts as not given, because charts and unit
files produce them. All that is wrong is collected and told at once, each problem with key, value, origin and cure, so
that a configuration is corrected in one go. What is merely suspicious is a warning in the result.

The settings themselves are a table, in `settings.py`; here is what is common to all. What must hold between them is
in `contradictions.py`.

A key of Headscale never comes from the file: `_secret` refuses it. What is not understood, or may hold a key that
came to the wrong place, is refused without its value.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni.spec import Refusal
from reconciler.contradictions import conflicts, suspicions
from reconciler.mesh.secrets import API_KEY, AUTH_KEY
from reconciler.node import files
from reconciler.parsers import Network, StaticRoute, Wrong
from reconciler.plainyaml import Malformed, documents
from reconciler.settings import BY_KEY, SETTINGS, Setting, as_text

_SECRET_NAMES = {"authkey": AUTH_KEY, "preauthkey": AUTH_KEY, "apikey": API_KEY}


@dataclass(frozen=True, slots=True)
class Config:
    state_dir: Path
    pod_cidrs: tuple[Network, ...]
    cluster_cidrs: tuple[Network, ...]
    node_prefix: int
    service_cidrs: tuple[Network, ...]
    masquerade: bool
    static_routes: tuple[StaticRoute, ...]
    mtu: int
    mesh_mode: str
    mesh_approval: str
    mesh_advertise: str
    fail_closed: bool
    guard: tuple[Network, ...]
    probe_port: int
    repair_preferences: bool
    headscale_url: str
    auth_key_file: Path | None
    api_key_file: Path | None
    headscale_ca_file: Path | None
    tailscale_socket: Path
    tailscale_hostname: str
    tailscale_tags: tuple[str, ...]
    accept_dns: bool
    node_name: str
    node_root: Path
    kube_mode: str
    kube_url: str
    kubeconfig: Path | None
    kube_ca_file: Path | None
    kube_token_file: Path | None
    cni_bin_dir: Path
    cni_conf_dir: Path
    cni_conf_file: str
    cni_template: Path | None
    cni_set_aside: bool
    metrics_address: str
    metrics_port: int
    metrics_path: str
    log_level: str
    history_max_records: int
    history_max_days: int
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Problem:
    key: str
    value: str
    origin: str
    what: str
    cure: str

    def __str__(self) -> str:
        shown = f" = {self.value}" if self.value else ""
        return f"{self.key}{shown} (from {self.origin}): {self.what}; {self.cure}"


@dataclass(frozen=True, slots=True)
class Change:
    key: str
    old: str
    new: str
    needs_restart: bool


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> Config | list[Problem]:
    """`flags` holds, by key, what was given on the command line."""
    in_file, problems = _read_file(file) if file else ({}, [])
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    warnings: list[str] = []
    for setting in SETTINGS:
        given, bad = _usable(setting, _sources(setting, flags, environ, in_file, file))
        warnings += bad
        raw, origin = given[0]
        origins[setting.key] = origin
        warnings += _overruled(setting, given)
        value = setting.parse(raw)
        if isinstance(value, Wrong):
            shown = "" if value.hidden else as_text(raw)
            problems.append(Problem(setting.key, shown, origin, value.what, value.cure))
        else:
            values[setting.field] = value
    problems += [_across(key, values, origins, wrong) for key, wrong in conflicts(values, origins, environ)]
    if problems:
        return problems
    return Config(**values, origins=origins, warnings=(*warnings, *suspicions(values, origins, environ)))


def changes(old: Config, new: Config) -> list[Change]:
    pairs = [(s, getattr(old, s.field), getattr(new, s.field)) for s in SETTINGS]
    return [Change(s.key, as_text(a), as_text(b), not s.live) for s, a, b in pairs if a != b]


# --- sources


def _sources(
    setting: Setting,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    in_file: Mapping[str, Any],
    file: Path | None,
) -> list[tuple[Any, str]]:
    """What was given for the setting and where, the winner first; never empty, for there is the default."""
    from_flag = (flags.get(setting.key), f"flag {setting.flag}")
    from_env = (environ.get(setting.env) or None, f"environment {setting.env}")
    from_file = (in_file.get(setting.key), f"file {file}")
    middle = (from_file, from_env) if setting.file_before_env else (from_env, from_file)
    given = [source for source in (from_flag, *middle) if source[0] is not None]
    return [*given, (setting.default, "default")]


def _usable(setting: Setting, given: list[tuple[Any, str]]) -> tuple[list[tuple[Any, str]], list[str]]:
    """What is wrong keeps the daemon from starting, but for a variable that is one source of several."""
    raw, origin = given[0]
    wrong = setting.parse(raw) if setting.file_before_env and origin.startswith("environment") else None
    if not isinstance(wrong, Wrong):
        return given, []
    return given[1:], [
        f"{setting.key}: {setting.env}={as_text(raw)} {wrong.what}; {wrong.cure}; the next source is tried"
    ]


def _overruled(setting: Setting, given: list[tuple[Any, str]]) -> list[str]:
    """Who sets a variable expects it to count; where the file is stronger, that is said."""
    if not setting.file_before_env:
        return []
    winner, origin = given[0]
    return [
        f"{setting.key}: {setting.env}={as_text(raw)} is not used, {origin} says {as_text(winner)}"
        for raw, source in given[1:]
        if source.startswith("environment") and setting.parse(raw) != setting.parse(winner)
    ]


def _read_file(file: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The file's values by dotted key."""

    def unusable(what: str, cure: str) -> tuple[dict[str, Any], list[Problem]]:
        return {}, [Problem("--config", str(file), "command line", what, cure)]

    path = file.absolute()
    content = files.read(Path("/"), str(path))
    if content is None:
        return unusable("does not exist", "name an existing file")
    if isinstance(content, Refusal):
        return unusable(content.msg.removeprefix(f"{path} "), content.details)
    found = documents(content, unique=True)
    if isinstance(found, Malformed):
        return unusable(found.what, "correct it at the place named")
    if len(found) > 1:
        return unusable(f"holds {len(found)} documents", "write one, without `---` between keys")
    body = found[0] if found else None
    if body is not None and not isinstance(body, dict):
        return unusable(
            f"holds a {'list' if isinstance(body, list) else 'text'}, not keys", "write it like `logLevel: info`"
        )
    values = dict(_flattened(body or {}))
    strangers = [key for key in values if key not in BY_KEY]
    return values, [_secret(key, file) or _unknown(key, file) for key in strangers]


def _flattened(body: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and key not in BY_KEY:
            yield from _flattened(value, key + ".")
        elif value is not None:
            yield key, value


def _secret(key: str, file: Path) -> Problem | None:
    """A file that is written for all to read is no place for a key."""
    secret = _SECRET_NAMES.get(key.rpartition(".")[2].lower().replace("_", "").replace("-", ""))
    if secret is None:
        return None
    cure = f"write it to a file and name that with {secret.file_key}, or set {secret.variable}"
    return Problem(key, "", f"file {file}", "is a secret, and is not taken from here", cure)


def _unknown(key: str, file: Path) -> Problem:
    same_leaf = [known for known in BY_KEY if known.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same_leaf or difflib.get_close_matches(key, BY_KEY, n=1, cutoff=0.5)
    cure = f"did you mean {near[0]}?" if near else "`headcni config` lists all keys"
    return Problem(key, "", f"file {file}", "no such setting", cure)


def _across(key: str, values: Mapping[str, Any], origins: Mapping[str, str], wrong: Wrong) -> Problem:
    return Problem(key, as_text(values[BY_KEY[key].field]), origins[key], wrong.what, wrong.cure)
