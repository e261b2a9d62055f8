"""Loading a configuration that must be valid, or must not be."""

from __future__ import annotations

from reconciler.config import Config, Problem, load


def loaded(flags=None, environ=None, file=None) -> Config:
    config = load(flags or {}, environ or {}, file)
    assert isinstance(config, Config), config
    return config


def refused(flags=None, environ=None, file=None) -> list[Problem]:
    problems = load(flags or {}, environ or {}, file)
    assert isinstance(problems, list)
    return problems
