"""A whole machine for tests: Debian as it is installed here, systemd as process 1, and nothing left of it.

What a guide has its reader do as root (users, units, nginx, /etc) is done here as it is written. The machine is a set of
namespaces: its root is an overlay of this one's that keeps changes in memory, its network is a loopback of its own, and what of
/proc and /sys belongs to the kernel that it shares is read-only. When its first process is killed, the kernel ends all of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import procfs
from systemd_user import OBSTACLE, SYSTEMD, make_groups, remove_groups
from waiting import PATIENCE, until

__all__ = ["OBSTACLE", "Machine"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT = r"""
set -e
for group in $GROUPS; do echo 0 > "$group/cgroup.procs"; done
exec unshare --mount --pid --cgroup --uts --ipc --net --fork --kill-child sh -c '
set -e
root=$FOLDER/root
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$FOLDER"
mkdir "$FOLDER/upper" "$FOLDER/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$FOLDER/upper,workdir=$FOLDER/work" overlay "$root"
mount -t proc proc "$root/proc"
for shared in sys sysrq-trigger irq bus; do
  if [ -e "$root/proc/$shared" ]; then
    mount --bind "$root/proc/$shared" "$root/proc/$shared"
    mount -o remount,bind,ro "$root/proc/$shared"
  fi
done
mount -t sysfs -o ro sysfs "$root/sys"
# Of the control groups this machine has its own only. In those of all, systemd would not know whose a process is.
mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
for group in $GROUPS; do
  mkdir -p "$root${group%/*}"
  mount --bind "$group" "$root${group%/*}"
done
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for pair in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${pair%%:*}" "$root/dev/${pair#*:}"; done
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
# This very project is to be found where it is, also if that is in /tmp.
case "$PROJECT" in /tmp/*) mkdir -p "$root$PROJECT"; mount --bind "$PROJECT" "$root$PROJECT";; esac
ip link set lo up
hostname shop
cd "$root"
# Nothing that this machine starts by itself but the journal, and the folders of /run; a service is started by who wants it.
rm -f etc/systemd/system/*.wants/* lib/systemd/system/*.wants/*
rm -rf srv/* var/log/journal
mkdir -p run/systemd/journald.conf.d run/systemd/system lib/systemd/system/sysinit.target.wants
for needed in journald tmpfiles-setup; do ln -s "../systemd-$needed.service" lib/systemd/system/sysinit.target.wants/; done
printf "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n" > run/systemd/journald.conf.d/test.conf
printf "[Unit]\nRequires=basic.target\nAfter=basic.target\n" > run/systemd/system/machine.target
# Services of other users run a Python that may lie in the home of root.
chmod a+x root
# The old root goes where the new one has its /tmp, and is then taken out of this namespace.
mkdir tmp/old
pivot_root . tmp/old
umount -l /tmp/old
rmdir /tmp/old
exec env -i container=test "PATH=$PATH" "$SYSTEMD" --system --unit=machine.target --log-target=console
'
"""


@dataclass
class Machine:
    """A machine that runs; `folder` holds its console, and is empty in the machine."""

    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)
    groups: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        name = f"arbiter-machine-{os.getpid()}"
        self.console = self.folder.with_suffix(".console")
        self.groups = make_groups(name)
        environment = {
            "PATH": PATH,
            "FOLDER": str(self.folder),
            "GROUPS": " ".join(map(str, self.groups)),
            "SYSTEMD": SYSTEMD,
            "PROJECT": str(Path(__file__).parents[2]),
        }
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                ["bash", "-c", BOOT], env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        until(self._is_running, lambda: f"the machine; its console: {self.console.read_text()}")

    def _first(self) -> int:
        return next((found.pid for found in procfs.everyone() if found.parent == self.process.pid), 0)

    def _is_running(self) -> bool:
        assert self.process.poll() is None, f"the machine has ended: {self.console.read_text()}"
        if not self._first():
            return False
        return self.run("systemctl is-system-running").stdout.strip() in {"running", "degraded"}

    def start(self, script: str) -> subprocess.Popen[str]:
        """Start bash, as root, with a script; both of its streams are in `stdout`."""
        words = ["nsenter", f"--target={self._first()}", "--all", "env", "-i", "HOME=/root", "LANG=C.UTF-8", f"PATH={PATH}"]
        return subprocess.Popen(
            [*words, "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str, *, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """What such a script has said, and its status."""
        with self.start(script) as process:
            try:
                said = process.communicate(timeout=timeout)[0]
            except BaseException:
                process.kill()
                raise
            return subprocess.CompletedProcess(script, process.returncode, said)

    def put(self, folder: Path, place: str) -> None:
        """Copy a folder of this machine's to a place in that one."""
        with subprocess.Popen(["tar", "--create", "--directory", str(folder), "."], stdout=subprocess.PIPE) as tar:
            inside = ["nsenter", f"--target={self._first()}", "--all"]
            subprocess.run([*inside, "mkdir", "--parents", place], check=True)
            subprocess.run([*inside, "tar", "--extract", "--directory", place], stdin=tar.stdout, check=True)

    def close(self) -> None:
        """End it, with all that runs in it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        remove_groups(self.groups)
