"""Become another user, for good. Child side, before the application is imported."""

from __future__ import annotations

import grp
import os
import pwd
from typing import NamedTuple


class Identity(NamedTuple):
    """Who a worker is to be; what is None stays as it is."""

    uid: int | None
    gid: int | None


def look_up(user: str | None, group: str | None) -> Identity:
    """The numbers behind the names (or numbers in text) of `user` and `group`; a user's own group where none is named.

    Raises:
        LookupError: there is no such user or group; the message says which.
    """
    uid = gid = None
    if user:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid = entry.pw_uid, entry.pw_gid
        except KeyError:
            if not user.isdigit():
                raise LookupError(f"there is no user {user!r}") from None
            uid = int(user)  # a number without an entry is a user too, usual in containers
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise LookupError(f"there is no group {group!r}") from None
    return Identity(uid, gid)


def drop(user: str | None, group: str | None, *, initgroups: bool) -> None:
    """Become `user` and `group`; with `initgroups`, in all of the user's groups. Groups before user: after it is too late.

    Raises:
        LookupError: there is no such user or group.
        OSError: the kernel refuses (EPERM: not started as root).
    """
    identity = look_up(user, group)
    if identity.gid is not None and identity.gid != os.getegid():
        os.setgid(identity.gid)
    if identity.uid is not None and identity.uid != os.geteuid():
        if initgroups:
            name = pwd.getpwuid(identity.uid).pw_name
            os.initgroups(name, identity.gid if identity.gid is not None else os.getegid())
        elif os.geteuid() == 0:
            os.setgroups([os.getegid()])  # root's groups would outlive root otherwise
        os.setuid(identity.uid)
