"""What the plugin prints: results from records, errors from refusals. Pure."""

from __future__ import annotations

import orjson

from cni.result import Interface, Ip, Result
from cni.spec import Refusal
from statemachine.attachment import Attachment


def result_of(record: Attachment) -> Result:
    """The same record gives the same answer, however often an ADD is repeated."""
    if record.link is None:
        ips = tuple(Ip(each.address, each.gateway) for each in record.addresses)
        return Result(ips=ips, routes=record.routes, dns=record.dns)
    link = record.link
    return Result(
        interfaces=(
            Interface(link.host, link.host_mac, mtu=link.mtu),
            Interface(link.pod, link.pod_mac, sandbox=record.netns.path if record.netns else "", mtu=link.mtu),
        ),
        ips=tuple(Ip(each.address, each.gateway, interface=1) for each in record.addresses),
        routes=record.routes,
        dns=record.dns,
    )


def success(record: Attachment, version: str) -> bytes:
    return orjson.dumps(result_of(record).shaped(version), option=orjson.OPT_APPEND_NEWLINE)


def failure(refusal: Refusal, version: str) -> bytes:
    body = {"cniVersion": version, "code": int(refusal.code), "msg": refusal.msg, "details": refusal.details}
    return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
