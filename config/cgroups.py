"""Control groups: where the limits of this process are written down.

A limit holds for everything below it, so the whole path up to the root counts. The usual mount points of systemd and of
every container runtime are assumed; where nothing is mounted there, there is no limit to be found. Sources: the kernel's
cgroup-v2.rst and cgroup-v1 documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = "/sys/fs/cgroup"


def directories(controller: str, read: Callable[[str], str | None]) -> Iterator[tuple[int, str]]:
    """The version (1 or 2) and the directory of every control group above this process that may limit `controller`.

    The process's own group comes before its parents. `read` gives a file's text, or None when there is none.
    """
    for line in (read("/proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            for directory in _upwards(ROOT, path):
                yield 2, directory
        elif controller in controllers.split(","):
            for mount in {controllers, controller}:  # "cpu,cpuacct" is the mount, "cpu" a link to it that may be missing
                for directory in _upwards(f"{ROOT}/{mount}", path):
                    yield 1, directory


def _upwards(mount: str, path: str) -> Iterator[str]:
    """The directory of a control group and of all its parents.

    Inside a container the path may be the host's, which does not exist here: its parents still lead to the mount. From
    outside our namespace it begins with `..` (cgroup_namespaces(7)), and only the mount can be read.
    """
    parts = [] if ".." in path.split("/") else [part for part in path.split("/") if part]
    for depth in range(len(parts), -1, -1):
        yield "/".join([mount, *parts[:depth]])


def read_file(path: str) -> str | None:
    """A small file's text; None when it can't be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return None
