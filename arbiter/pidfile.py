"""A pid file that is neither stolen nor left behind.

The file is locked (flock(2)) for as long as its owner lives, so whether it is stale is a fact and not a guess about process
numbers, which the kernel uses again. It is written whole before it gets its name, and removed only while it is still ours.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from arbiter.errors import StartError, why


class PidFile:
    """The supervisor's pid under a name. Supervisor side; a child lets go of it with `forget`."""

    def __init__(self, path: str) -> None:
        """Write and lock it.

        Raises:
            StartError: another process holds it, or the directory can't be written.
        """
        self.path = path
        try:
            self._fd = self._claim()
        except OSError as error:
            raise StartError(f"can't write the pid file {path}: {why(error)}. Choose another with --pid, or none.") from error

    def _claim(self) -> int:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
                os.close(fd)
                raise StartError(
                    f"already running: pid {owner} holds the pid file {self.path}. Stop it first, or choose another with --pid."
                ) from None
            if not self._is_named(fd):  # its owner removed it between our open and our lock
                os.close(fd)
                continue
            if foreign := _foreign_owner(fd):
                os.close(fd)
                raise StartError(
                    f"the pid file {self.path} belongs to pid {foreign}, which is alive. Stop it first, or choose another file."
                )
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            return fd

    def _is_named(self, fd: int) -> bool:
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))

    def remove(self) -> None:
        """Remove it, unless somebody has put another file in its place."""
        with suppress(OSError):
            if self._is_named(self._fd):
                os.unlink(self.path)
        self.forget()

    def forget(self) -> None:
        """Close our descriptor; the lock goes when the last process that has it does."""
        os.close(self._fd)


def _foreign_owner(fd: int) -> int | None:
    """The pid in the file if that process wrote it, as far as can be told; for programs that write pid files without a lock.

    A process that started after the file was written only happens to have the number.
    """
    text = os.pread(fd, 32, 0).strip()
    if not text.isdigit() or (pid := int(text)) == os.getpid():
        return None
    try:
        started = os.stat(f"/proc/{pid}").st_mtime
    except OSError:
        return None
    return pid if started <= os.fstat(fd).st_mtime else None
