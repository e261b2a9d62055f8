"""The CNI vocabulary: verbs, versions, error codes, and the remedy that belongs to each code.

A `Refusal` is an *outcome*, not an exception: it is what a caller must be told when a request cannot be
served, and it travels as a value through every function that may produce one. Anything else that goes wrong
is a fault and travels as an exception to the supervisor. Keeping the two apart is the one rule of error handling
in this project.

Codes 1 to 99 belong to the specification. Ours start at 100 and never change their meaning once released;
`docs/errors.md` is printed from `REMEDIES`, and a test holds it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from cni.plugin import SUPPORTED_VERSIONS as SUPPORTED_VERSIONS


class Verb(StrEnum):
    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


class Code(IntEnum):
    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODE_FAILURE = 6
    INVALID_CONFIGURATION = 7
    TRY_AGAIN_LATER = 11
    UNAVAILABLE = 50
    UNAVAILABLE_LIMITED = 51
    POOL_EMPTY = 100
    ADDRESS_REFUSED = 101
    INTERFACE_TAKEN = 102
    ATTACHMENT_DIFFERS = 103
    DELEGATE_FAILED = 104
    ATTACHMENT_EXISTS = 105
    KERNEL_REFUSED = 106
    INTERNAL_FAULT = 107


REMEDIES: dict[Code, tuple[str, str]] = {
    Code.INCOMPATIBLE_VERSION: (
        "the configuration asks for a CNI version this plugin does not speak",
        "set cniVersion to one of those that `CNI_COMMAND=VERSION /opt/cni/bin/headcni </dev/null` prints",
    ),
    Code.UNSUPPORTED_FIELD: (
        "reserved, not given by this version: a field of the configuration is valid but not supported here",
        "remove the field that the message names",
    ),
    Code.UNKNOWN_CONTAINER: (
        "the container or its network namespace is not known",
        "none for an operator: the runtime does not need to clean up",
    ),
    Code.INVALID_ENVIRONMENT: (
        "a CNI_… variable is missing or malformed",
        "this comes from the container runtime, or from a call by hand; set the variable the message names",
    ),
    Code.IO_FAILURE: (
        "a file under the state directory could not be written or read",
        "free space or inodes, check that the directory is writable by root; deletes still work",
    ),
    Code.DECODE_FAILURE: (
        "what came on standard input is not JSON",
        "check the file under /etc/cni/net.d with `jq .`",
    ),
    Code.INVALID_CONFIGURATION: (
        "the network configuration is JSON but not valid",
        "correct the field the message names in /etc/cni/net.d/10-headcni.conflist",
    ),
    Code.TRY_AGAIN_LATER: (
        "no daemon answered before the deadline, or the attachment is busy",
        "the runtime tries again by itself; if it lasts, see `headcni status` and the daemon's log",
    ),
    Code.UNAVAILABLE: (
        "STATUS: this node cannot serve an ADD now",
        "start the daemon, or read the reason in `headcni status`",
    ),
    Code.UNAVAILABLE_LIMITED: (
        "reserved, not given by this version: STATUS, and existing pods may have limited connectivity",
        "read the reason in `headcni status`",
    ),
    Code.POOL_EMPTY: (
        "every address of the pool is held, reserved or excluded",
        "delete pods, or give the node a larger subnet; `headcni pods` shows who holds what",
    ),
    Code.ADDRESS_REFUSED: (
        "the address asked for cannot be given",
        "ask for a free address inside the subnet, or for none",
    ),
    Code.INTERFACE_TAKEN: (
        "the pod already has an interface of the name asked for",
        "another plugin made it: give this network another interface name, or remove the other",
    ),
    Code.ATTACHMENT_DIFFERS: (
        "CHECK: the kernel does not hold what the record says",
        "the message names the difference; the daemon repairs what it owns, else recreate the pod",
    ),
    Code.DELEGATE_FAILED: (
        "the IPAM plugin this network delegates to could not be run or gave no valid answer",
        "install the binary into a directory of CNI_PATH, or correct `ipam` in the configuration",
    ),
    Code.ATTACHMENT_EXISTS: (
        "this container and interface are attached already, in another network namespace",
        "the runtime must DEL the old attachment first; `headcni show CONTAINER` tells where it is",
    ),
    Code.KERNEL_REFUSED: (
        "the kernel refused a request",
        "the message names the request and the error; dmesg may tell more",
    ),
    Code.INTERNAL_FAULT: (
        "a fault in HeadCNI itself",
        "report it, with `headcni show CONTAINER` and the daemon's log line of the same key",
    ),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served. One that another plugin gave keeps that plugin's code, so this is any number."""

    code: int
    msg: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.msg}: {self.details}" if self.details else self.msg
