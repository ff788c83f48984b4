"""The real systemd for tests: a manager of the machine's own version, and nothing left of it.

It is `systemd --user` in a mount and a PID namespace of its own: it believes in a machine that systemd has booted
(/run/systemd/system), finds no units but the test's, and when the namespace's first process is killed, the kernel ends
all that it ever started. Only root can make that, and a control group for it.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import procfs
from waiting import PATIENCE, until

SYSTEMD = "/lib/systemd/systemd"
GROUPS = [Path("/sys/fs/cgroup", name) for name in ("", "unified", "systemd")]
"""Where systemd looks for its control group: one hierarchy, or the two of a hybrid set-up (cgroups(7))."""
TARGETS = ("default", "basic", "sockets", "shutdown", "exit")
"""All that a manager wants to find."""
INIT = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system || exit 1
for group in $GROUPS; do echo 0 > "$group/cgroup.procs" || exit 1; done
"$@" &
wait
"""
"""The namespace's first process. It is not the manager itself, which as process 1 would take itself for the system's."""
_NUMBERS = count()


def _obstacle() -> str:
    """Why no manager can be run here; empty when one can."""
    if not os.access(SYSTEMD, os.X_OK):
        return "systemd is not installed"
    if os.geteuid():
        return "only root can give a manager its namespaces and its control group"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return f"no namespaces here: {tried.stderr.strip()}"
    if not any(os.access(group / "cgroup.procs", os.W_OK) for group in GROUPS):
        return "no control group can be made here: /sys/fs/cgroup is missing or read-only"
    return ""


OBSTACLE = _obstacle()
"""Why no test can have a manager; empty when it can."""


def version() -> int:
    if OBSTACLE:
        return 0
    return int(subprocess.run([SYSTEMD, "--version"], capture_output=True, text=True, check=True).stdout.split()[1])


@dataclass
class Systemd:
    """A private user manager."""

    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)
    groups: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        name = f"arbiter-test-{os.getpid()}-{next(_NUMBERS)}"
        self.units = self.folder / "units"
        self.log = self.folder / "manager.log"
        self.units.mkdir()
        (self.folder / "run").mkdir(mode=0o700)
        for target in TARGETS:
            self.write(f"{target}.target", f"[Unit]\nDescription={target}\n")
        self.groups = make_groups(name)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "SYSTEMD_UNIT_PATH": str(self.units),
            "GROUPS": " ".join(map(str, self.groups)),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                    "sh",
                    "-c",
                    INIT,
                    "sh",
                    SYSTEMD,
                    "--user",
                ],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._is_running, lambda: f"the manager; it said: {self.log.read_text()}")

    def _is_running(self) -> bool:
        assert self.process.poll() is None, f"the manager has ended: {self.log.read_text()}"
        # `degraded` is a manager that runs, with a unit that does not.
        return bool(self._first()) and self.ctl("is-system-running").stdout.strip() in {"running", "degraded"}

    def _first(self) -> int:
        return next((found.pid for found in procfs.everyone() if found.parent == self.process.pid), 0)

    def write(self, name: str, text: str) -> None:
        """Write a unit."""
        (self.units / name).write_text(text)

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What `systemctl --user` with these words says."""
        return subprocess.run(
            ["nsenter", f"--target={self._first()}", "--pid", "--mount", "systemctl", "--user", *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def close(self) -> None:
        """End it, with all that it has started, and see that nothing is left."""
        self.process.kill()
        self.process.wait(PATIENCE)
        remove_groups(self.groups)


def make_groups(name: str) -> list[Path]:
    """A control group of this name in each hierarchy that can be written to."""
    groups = [group / name for group in GROUPS if os.access(group / "cgroup.procs", os.W_OK)]
    for group in groups:
        group.mkdir()
    return groups


def remove_groups(groups: list[Path]) -> None:
    """Remove these, and those that systemd has made of the same name, once their last processes have ended."""
    for group in [*groups, *Path("/sys/fs/cgroup").glob(f"*/{groups[0].name}")]:
        if group.exists():
            until(lambda group=group: _remove(group), f"the end of all processes in {group}")  # type: ignore[misc]  # a loop's variable


def _remove(group: Path) -> bool:
    """Whether a control group could be removed, with those below it: none of them has a process any more."""
    with suppress(OSError):
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    return not group.exists()
