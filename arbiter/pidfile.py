"""A pid file that is neither stolen nor left behind.

The file is locked (flock(2)) for as long as its owner lives, so whether it is stale is a fact and not a guess about process
numbers, which the kernel uses again. It is removed only while it is still ours, and whoever reads it reads a whole number.

In an upgrade two supervisors have the file, and its lock, open at once: flock(2) belongs to the open file, so it never lapses.
Each removes it only while it owns it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from arbiter.errors import StartError, why


class PidFile:
    """The supervisor's pid under a name. Supervisor side; a child lets go of it with `forget`."""

    def __init__(self, path: str, inherited: int | None = None) -> None:
        """Write and lock it; or take the descriptor of the one that a predecessor still owns.

        Raises:
            StartError: another process holds it, or the directory can't be written.
        """
        self.path = path
        self._is_ours = inherited is None
        try:
            self._fd = self._claim() if inherited is None else inherited
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
            if not _is_named(self.path, fd):  # its owner removed it between our open and our lock
                os.close(fd)
                continue
            if foreign := _foreign_owner(fd):
                os.close(fd)
                raise StartError(
                    f"the pid file {self.path} belongs to pid {foreign}, which is alive. Stop it first, or choose another file."
                )
            _write(fd, os.getpid())
            return fd

    def bequeath(self) -> tuple[str, int]:
        """Its path and its descriptor, for another supervisor to inherit."""
        return self.path, self._fd

    def is_at(self, path: str) -> bool:
        """Whether it has this name."""
        return _is_named(path, self._fd)

    def give(self, pid: int) -> None:
        """Let it name another process, which is to own it when we are gone."""
        self._is_ours = False
        with suppress(OSError):  # as `own`
            _write(self._fd, pid)

    def own(self) -> None:
        """Let it name us."""
        self._is_ours = True
        with suppress(OSError):  # it has held a number before, so even on a full disk there is room for another
            _write(self._fd, os.getpid())

    def remove(self) -> None:
        """Remove it if it is ours, unless somebody has put another file in its place; in any case, let go of it."""
        with suppress(OSError):
            if self._is_ours and _is_named(self.path, self._fd):
                os.unlink(self.path)
        self.forget()

    def forget(self) -> None:
        """Close our descriptor; the lock goes when the last process that has it does."""
        os.close(self._fd)


def _is_named(path: str, fd: int) -> bool:
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def _write(fd: int, pid: int) -> None:
    """Write a pid in place of what is there. Who reads meanwhile reads the old or the new, perhaps with blank lines below."""
    text = b"%d\n" % pid
    os.pwrite(fd, text.ljust(os.fstat(fd).st_size, b"\n"), 0)
    os.ftruncate(fd, len(text))


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
