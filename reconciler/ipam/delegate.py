"""Runs another IPAM plugin (host-local, dhcp, static, …), as the specification says: found in CNI_PATH, configuration
on its standard input, answer on its standard output.

`run` has three outcomes. `Result`: it says it did what was asked (empty for all verbs but ADD; host-local answers GC
so, and collects nothing). `UnknownVerb`: it does not know STATUS or GC, and most callers carry on. `Refusal`: its own
code and words where it gave some, DELEGATE_FAILED where it could not be run, ran too long or spoke nonsense.

The caller must run DEL after an ADD that gave anything but a `Result`: a plugin that was killed may have reserved an
address, and only it can tell.

The plugin sees exactly the environment given. Its standard streams are memory files rather than pipes: no deadlock
on a large configuration, nothing on a disk (a configuration may hold secrets, and is never logged or quoted), and a
child it left behind cannot keep us waiting by holding a pipe open. It runs in a session of its own, so that its
children are killed with it; whatever ends the wait (time, cancellation), it is killed and reaped.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from cni.result import Dns, Ip, Result, Route, dns_from, route_from
from cni.spec import Code, Refusal, Verb

MAX_ANSWER = 1 << 20  # bytes
QUOTED = 200  # bytes of an answer that makes no sense


class NotInstalled(Refusal):
    """It was not found; so, unless it was removed since, it has never reserved anything."""


@dataclass(frozen=True, slots=True)
class UnknownVerb:
    plugin: str
    verb: Verb


@dataclass(frozen=True, slots=True)
class _Exit:
    status: int
    output: bytes
    errors: bytes


async def run(
    verb: Verb, plugin: str, config: bytes, env: Mapping[str, str], within: float
) -> Result | UnknownVerb | Refusal:
    binary = find(plugin, env.get("CNI_PATH", ""))
    if isinstance(binary, Refusal):
        return binary
    ended = await _execute(binary, config, {**env, "CNI_COMMAND": verb}, within)
    if isinstance(ended, Refusal):
        return ended
    if ended.status != 0:
        return _failure(plugin, verb, ended)
    if verb is not Verb.ADD:
        return Result()
    try:
        return read_result(ended.output)
    except ValueError as error:
        return _failed(f"IPAM plugin {plugin} gave no valid result", f"{error}; it printed {_quote(ended.output)}")


def find(plugin: str, cni_path: str) -> Path | Refusal:
    if not plugin or "/" in plugin or plugin in (".", ".."):
        return Refusal(
            Code.INVALID_CONFIGURATION,
            f"ipam.type: {plugin!r} is not the name of a plugin",
            "give the bare file name of a program in CNI_PATH, such as host-local",
        )
    directories = [Path(each).absolute() for each in cni_path.split(":") if each]
    for directory in directories:
        if (directory / plugin).is_file() and os.access(directory / plugin, os.X_OK):
            return directory / plugin
    searched = ", ".join(map(str, directories)) or "nothing, as CNI_PATH is empty"
    return NotInstalled(
        Code.DELEGATE_FAILED,
        f"IPAM plugin {plugin} was not found",
        f"searched {searched}; install the program {plugin} into one of them, or correct ipam.type",
    )


async def _execute(binary: Path, config: bytes, env: Mapping[str, str], within: float) -> _Exit | Refusal:
    with ExitStack() as files:
        stdin, stdout, stderr = (files.enter_context(_memory_file(name)) for name in ("config", "answer", "errors"))
        stdin.write(config)
        stdin.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                binary, stdin=stdin, stdout=stdout, stderr=stderr, env=env, start_new_session=True
            )
        except OSError as error:
            return _failed(f"IPAM plugin {binary} could not be run", f"{error.strerror}; is it built for this node?")
        try:
            async with asyncio.timeout(within):
                status = await process.wait()
        except TimeoutError:
            return _failed(f"IPAM plugin {binary} did not end within {within:g} s", "it was killed; see what it awaits")
        finally:
            await _kill(process)
        return _Exit(status, _content(stdout), _content(stderr))


def _memory_file(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b", buffering=0)


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(MAX_ANSWER + 1)


async def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _failure(plugin: str, verb: Verb, ended: _Exit) -> UnknownVerb | Refusal:
    try:
        error = _object(orjson.loads(ended.output), "the answer")
        code, msg, details = error.get("code"), error.get("msg"), error.get("details") or ""
    except ValueError:
        code, msg, details = None, None, None
    if not (isinstance(code, int) and code > 0 and isinstance(msg, str) and isinstance(details, str)):
        how = f"with status {ended.status}" if ended.status > 0 else f"by signal {-ended.status}"
        printed = ended.output if ended.output.strip() else ended.errors
        return _failed(f"IPAM plugin {plugin} ended {how} and gave no CNI error", f"it printed {_quote(printed)}")
    if verb in (Verb.STATUS, Verb.GC) and code == Code.INVALID_ENVIRONMENT and "CNI_COMMAND" in msg:
        return UnknownVerb(plugin, verb)
    return Refusal(code, msg, details)


def _failed(msg: str, details: str) -> Refusal:
    return Refusal(Code.DELEGATE_FAILED, msg, details)


def _quote(printed: bytes) -> str:
    return repr(printed[:QUOTED].decode(errors="replace")) if printed.strip() else "nothing"


def read_result(output: bytes) -> Result:
    """An IPAM result of 0.3.x to 1.1.0; a ValueError names the field that is wrong."""
    if len(output) > MAX_ANSWER:
        raise ValueError(f"the answer is longer than {MAX_ANSWER} bytes")
    raw = _object(orjson.loads(output), "the answer")
    ips = tuple([_ip(each) for each in _list(raw, "ips")])
    if not ips:
        raise ValueError("ips: no address was given")
    return Result(ips=ips, routes=tuple([_route(each) for each in _list(raw, "routes")]), dns=_dns(raw.get("dns")))


def _ip(raw: Any) -> Ip:
    ip = _object(raw, "ips")
    address, gateway = ip.get("address"), ip.get("gateway") or None
    if not isinstance(address, str) or "/" not in address:
        raise ValueError(f"ips.address: {address!r} is no address with a prefix length")
    return Ip(str(ip_interface(address)), None if gateway is None else str(ip_address(str(gateway))))


def _route(raw: Any) -> Route:
    route = _object(raw, "routes")
    if not isinstance(route.get("dst"), str):
        raise ValueError(f"routes.dst: {route.get('dst')!r} is no network")
    ip_network(route["dst"], strict=False)
    if route.get("gw"):
        ip_address(str(route["gw"]))
    for name in ("mtu", "advmss", "priority"):
        if not isinstance(route.get(name) or 0, int):
            raise ValueError(f"routes.{name}: {route[name]!r} is no number")
    return route_from(route)


def _dns(raw: Any) -> Dns:
    dns = _object(raw or {}, "dns")
    if not isinstance(dns.get("domain") or "", str):
        raise ValueError(f"dns.domain: {dns['domain']!r} is no text")
    for name in ("nameservers", "search", "options"):
        if not all(isinstance(each, str) for each in _list(dns, name)):
            raise ValueError(f"dns.{name}: not a list of text")
    return dns_from(dns)


def _object(raw: Any, name: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{name} is not a JSON object")
    return raw


def _list(raw: dict[str, Any], name: str) -> list[Any]:
    found = raw.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{name} is not a list")
    return found
