"""Without the extra `kube` the daemon says what to install, and does without the API."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from reconciler.config import load
from reconciler.kube.assemble import dial, not_installed
from reconciler.kube.candidates import Candidate, Origin
from reconciler.kube.codes import Trouble
from reconciler.kube.names import Names
from reconciler.threads import Threads


@pytest.mark.parametrize("package", ["kubernetes", "urllib3"])
def test_a_package_that_is_not_installed_is_named_with_its_cure(monkeypatch, package):
    for module in list(sys.modules):
        if module.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, module, None)
        elif module.startswith("reconciler.kube.") and Path(sys.modules[module].__file__).stem in HEAVY:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    way = Candidate(Origin.URL, url="https://192.0.2.1:6443")
    refusal = asyncio.run(dial(way, load({}, {}, None), Threads(), Names()))
    assert refusal.code == Trouble.API_PACKAGE
    assert repr(package) in refusal.msg
    assert "pip install 'headcni[kube]'" in refusal.details


HEAVY = ("access", "answers", "calls", "client", "diagnose", "opening", "package", "transport")


def test_a_module_of_our_own_that_is_missing_is_a_fault():
    with pytest.raises(ModuleNotFoundError):
        not_installed(ModuleNotFoundError("lost", name="reconciler.kube.client"))
