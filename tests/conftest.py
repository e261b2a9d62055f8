"""What holds for every test.

A test of the kernel tier is skipped, with the reason, where it cannot run; where CI=true or HEADCNI_REQUIRE_KERNEL=1
it fails instead, so that a tier cannot fall silent unnoticed.

An event that the daemon logs as an error fails the test in which it happens, in this process or in a daemon started
under the test's `tmp_path`: whoever expects one says so with `@pytest.mark.expects_errors`. So a fault that a
supervisor caught and survived is not overlooked because the test looked at something else.
"""

import logging
import os
import signal

import pytest
from hypothesis import settings

from fixtures.system import why_not

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background; it is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("any machine", deadline=None)  # a busy one must not fail a property by its clock
settings.load_profile("any machine")

REQUIRED = os.environ.get("CI") == "true" or os.environ.get("HEADCNI_REQUIRE_KERNEL") == "1"


def pytest_configure(config):
    config.addinivalue_line("markers", "expects_errors: the daemon logs errors in this test, and that is right")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item.get_closest_marker("kernel") is None:
        return
    problem = why_not()
    if problem and REQUIRED:
        pytest.fail(f"required here, but {problem}", pytrace=False)
    if problem:
        pytest.skip(problem)


@pytest.fixture(autouse=True)
def no_unannounced_errors(request, caplog):
    logs = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if request.node.get_closest_marker("expects_errors"):
        return
    records = [each for each in caplog.get_records("call") if each.name == "headcni"]
    logged = [each.getMessage() for each in records if each.levelno >= logging.ERROR]
    if logs is not None:
        for file in logs.glob("**/*.log"):
            lines = file.read_text(errors="replace").splitlines()
            logged += [f"{file.name}: {line}" for line in lines if " ERROR " in line]
    assert not logged, "logged as errors, and not announced:\n" + "\n".join(logged[:5])


def pytest_terminal_summary(terminalreporter):
    """How many kill points the crash tests covered: a number that would fall unnoticed in a captured print."""
    covered = [
        (report.nodeid.rpartition("::")[2], value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "kill_points"
    ]
    if covered:
        terminalreporter.section(f"{sum(value for _, value in covered)} kill points covered")
        for test, value in covered:
            terminalreporter.line(f"{value:4} {test}")
