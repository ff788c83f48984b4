"""For all tests: the harness of real servers (tests/process/harness.py), and what it knows added to the report of a failure.

pytest's `importlib` mode puts no folder of tests on the path, so the folder with the harness is put there, for tests/process
and tests/faults alike.
"""

from __future__ import annotations

import compileall
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "process"))

from harness import Arbiter
from systemd_user import Systemd

# An example costs what it costs on a loaded machine: time limits for each only make tests flaky.
settings.register_profile(
    "house", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("house")

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    """Compile Arbiter once for all: servers under test write no .pyc files (`harness.BASE`), so each would do it for itself.

    That was more than a third of the time in which one starts, serves and stops.
    """
    if not hasattr(config, "workerinput"):  # in the process that the others are started by
        for package in ("arbiter", "workers", "config"):
            compileall.compile_dir(config.rootpath / package, quiet=1)


@pytest.fixture
def arbiter(tmp_path: Path) -> Iterator[Arbiter]:
    """Starts servers in `tmp_path`; whatever the test did, each is then stopped, and must have left nothing behind."""
    launcher = Arbiter(tmp_path)
    try:
        yield launcher
    finally:
        launcher.finish()


@pytest.fixture
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """The real systemd, of its own; where it can be had (`systemd_user.OBSTACLE`)."""
    # Not `tmp_path`: with the test's name in it, the paths of the manager's sockets would be longer than sockets have them.
    systemd = Systemd(tmp_path_factory.mktemp("sd"))
    try:
        yield systemd
    finally:
        print(systemd.log.read_text())
        systemd.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the servers' logs below a failure."""
    report = yield
    launcher = getattr(item, "funcargs", {}).get("arbiter")
    if report.failed and isinstance(launcher, Arbiter):
        report.sections += launcher.evidence()
    return report
