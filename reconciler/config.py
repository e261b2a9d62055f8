"""The daemon's configuration: one value for each setting, and where it came from.

A flag wins over an environment variable, that over the file, that over the default; a setting may turn the middle
two around, and says why. An empty variable or a key without a value counts as not given, because charts and unit
files produce them. All that is wrong is collected and told at once, each problem with key, value, origin and cure, so
that a configuration is corrected in one go. What is merely suspicious is a warning in the result.

The settings themselves are a table, in `settings.py`; here is what is common to all, and what holds between them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.settings import BY_KEY, SETTINGS, Network, Setting, StaticRoute, Wrong, as_text


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
    kube_mode: str
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
        given = _sources(setting, flags, environ, in_file, file)
        raw, origin = given[0]
        origins[setting.key] = origin
        warnings += _overruled(setting, given)
        value = setting.parse(raw)
        if isinstance(value, Wrong):
            problems.append(Problem(setting.key, as_text(raw), origin, value.what, value.cure))
        else:
            values[setting.field] = value
    problems += [_across(key, values, origins, wrong) for key, wrong in _conflicts(values)]
    if problems:
        return problems
    return Config(**values, origins=origins, warnings=(*warnings, *_suspicions(values)))


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
    import yaml  # only where a file is given: it costs a start ten milliseconds

    def unusable(what: str, cure: str) -> tuple[dict[str, Any], list[Problem]]:
        return {}, [Problem("--config", str(file), "command line", what, cure)]

    try:
        body = yaml.safe_load(file.read_bytes())
    except IsADirectoryError:
        return unusable("is a directory", "a ConfigMap key must be mounted with subPath to be a file")
    except OSError as error:
        return unusable(f"cannot be read: {error.strerror}", "name an existing file that root may read")
    except yaml.YAMLError as error:
        return unusable(f"is not YAML: {' '.join(str(error).split())}", "correct it at the place named")
    if body is not None and not isinstance(body, dict):
        return unusable(f"holds a {type(body).__name__}, not keys", "write it like `logLevel: info`")
    values = dict(_flattened(body or {}))
    unknown = [_unknown(key, value, file) for key, value in values.items() if key not in BY_KEY]
    return values, unknown


def _flattened(body: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and key not in BY_KEY:
            yield from _flattened(value, key + ".")
        elif value is not None:
            yield key, value


def _unknown(key: str, value: Any, file: Path) -> Problem:
    same_leaf = [known for known in BY_KEY if known.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same_leaf or difflib.get_close_matches(key, BY_KEY, n=1, cutoff=0.5)
    cure = f"did you mean {near[0]}?" if near else "`headcni config` lists all keys"
    return Problem(key, as_text(value), f"file {file}", "no such setting", cure)


# --- what must hold between settings


def _across(key: str, values: Mapping[str, Any], origins: Mapping[str, str], wrong: Wrong) -> Problem:
    return Problem(key, as_text(values[BY_KEY[key].field]), origins[key], wrong.what, wrong.cure)


def _conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, Wrong]]:
    """Between those values that are valid by themselves."""
    own, base = values.get("pod_cidrs", ()), values.get("cluster_cidrs", ())
    services, static = values.get("service_cidrs", ()), values.get("static_routes", ())
    mtu, prefix = values.get("mtu", 0), values.get("node_prefix", 32)
    for key, pods in (("network.podCIDR.nodeLocal", own), ("network.podCIDR.base", base)):
        for pod, service in _pairs(pods, services):
            if pod.overlaps(service):
                cure = "a pod would get a Service's address: move one of them, as the cluster was set up"
                yield key, Wrong(f"{pod} overlaps network.serviceCIDR {service}", cure)
    for cidr in base:
        if cidr.version == 4 and prefix < cidr.prefixlen:
            cure = f"a node's share must fit: write /{cidr.prefixlen} or longer"
            yield "network.podCIDR.perNode", Wrong(f"is wider than network.podCIDR.base {cidr}", cure)
    for cidr, route in _pairs(own, [route.dst for route in static]):
        if route.subnet_of(cidr):
            cure = "remove this route: it would lead this node's own pods away"
            yield "network.staticRoutes", Wrong(f"{route} lies in this node's pod CIDR {cidr}", cure)
    if 0 < mtu < 1280 and any(cidr.version == 6 for cidr in (*own, *base)):
        yield "network.mtu", Wrong("is too small for IPv6", "write 1280 or more, or 0 for automatic")


def _suspicions(values: Mapping[str, Any]) -> list[str]:
    own, base = values["pod_cidrs"], values["cluster_cidrs"]
    return [
        f"network.podCIDR.nodeLocal: {cidr} is outside network.podCIDR.base {as_text(base)}; "
        "other nodes will take its pods for strangers"
        for cidr in own
        if not any(cidr.subnet_of(whole) for _, whole in _pairs([cidr], base))
    ]


def _pairs(some: Any, others: Any) -> list[tuple[Any, Any]]:
    """Those of one address family: only they can be compared."""
    return [(a, b) for a in some for b in others if a.version == b.version]
