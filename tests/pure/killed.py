"""A process that is killed between two operations on files, without a process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Killed(BaseException):
    pass


@contextmanager
def killed_at(operation: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Before the n-th operation, whose name is in the list then. As a process that is killed, it cleans nothing up."""
    count, struck = iter(range(operation)), list[str]()

    def striking(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if next(count, None) is None:
                struck.append(name)
                raise Killed
            return real(*arguments, **more)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "link", "unlink", "fsync", "fchmod"):
            patched.setattr(os, name, striking(name, getattr(os, name)))
        try:
            yield struck
        except Killed:
            pass
