"""Network namespaces: which one a path means, and an instant inside it.

A path proves nothing: runtimes hand out `/proc/<pid>/ns/net`, and the process number is somebody else's by the time a
late DEL or a restarted daemon looks again (cri-o/cri-o#2849). So a namespace is known by device and inode, compared
on the very descriptor that is then used.

A thread that stayed in a pod's namespace by mistake would wire the next pod from inside this one. If the way back
fails, the whole process ends at once; the records tell the next daemon what to do.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from cni.spec import Code, Refusal
from statemachine.attachment import Namespace

T = TypeVar("T")

_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


def identify(path: str) -> Namespace | Refusal:
    opened = _open(path)
    if isinstance(opened, Refusal):
        return opened
    descriptor, namespace = opened
    os.close(descriptor)
    return namespace


def open_namespace(expected: Namespace) -> int | Refusal:
    opened = _open(expected.path)
    if isinstance(opened, Refusal):
        return opened
    descriptor, found = opened
    if found == expected:
        return descriptor
    os.close(descriptor)
    return Refusal(
        Code.UNKNOWN_CONTAINER,
        f"the container's network namespace is gone: {expected.path} is another one now",
        f"device and inode were {expected.dev}:{expected.ino}, and are {found.dev}:{found.ino}",
    )


def inside(descriptor: int, act: Callable[[], T]) -> T:
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(descriptor)
        try:
            return act()
        finally:
            _return(home)
    finally:
        os.close(home)


def _open(path: str) -> tuple[int, Namespace] | Refusal:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return Refusal(
            Code.UNKNOWN_CONTAINER, f"CNI_NETNS: {path} does not exist", "the container is gone, or the path is wrong"
        )
    except OSError as error:
        return _no_namespace(path, str(error))
    found, own = os.fstat(descriptor), os.stat(_OWN)
    namespace = Namespace(path, found.st_dev, found.st_ino)
    wrong = ""
    if found.st_dev != own.st_dev or fcntl.ioctl(descriptor, _NS_GET_NSTYPE) != _CLONE_NEWNET:
        wrong = "it is something else"
    elif found.st_ino == own.st_ino:
        wrong = "it is the node's own, in which pods with hostNetwork live: they need no CNI"
    if not wrong:
        return descriptor, namespace
    os.close(descriptor)
    return _no_namespace(path, wrong)


def _no_namespace(path: str, why: str) -> Refusal:
    return Refusal(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {path} is not a pod's network namespace", why)


def _return(home: int) -> None:
    try:
        _enter(home)
    except OSError as error:
        sys.stderr.write(f"headcni: cannot leave a pod's network namespace, so this process ends: {error}\n")
        os.abort()


if sys.version_info >= (3, 12):

    def _enter(descriptor: int) -> None:
        os.setns(descriptor, _CLONE_NEWNET)

else:
    _libc = ctypes.CDLL(None, use_errno=True)

    def _enter(descriptor: int) -> None:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
