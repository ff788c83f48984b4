"""Listening sockets: opened before a generation is proposed, kept while any generation uses them, closed after.

A new address is bound before an old one is closed, and nothing is taken from anybody: a Unix socket's file is removed only
when nobody listens behind it, and at the end only when it is still the file that we made. Supervisor side; children inherit.

Closing a listening socket resets the connections that wait in its queue. So at the end of the service the doors are *shut*
first (nobody new gets in), the workers serve who is inside, and only an empty queue is closed. Sockets that outlive us, of a
.socket unit or in systemd's store, are never shut: who waits there is served by the next start. Neither are those that
another supervisor has too, during an upgrade: who waits there is served by that one.

With `reuse_port` an address has a **group** of sockets, one for each slot, and the kernel spreads connections over their
queues. A slot's worker and its successors take from their own first; each also takes what another leaves lying, so a worker
that is busy, dead or not wanted any more holds up nobody, and a group never has to be drained: it only grows. A socket that
is new to a group gets no connection before all workers have it (`keep_only`), as those that live already can't be given it.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from itertools import chain, compress, zip_longest
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from arbiter.config.addresses import Address, Scheme, parse_address
from arbiter.errors import StartError, why
from arbiter.sockets import (
    STORE_PREFIX,
    Form,
    advice,
    bind_beside,
    bind_tcp,
    display,
    give,
    identity,
    is_at,
    is_shared,
    remove_if_stale,
    shut,
    steer,
    store_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arbiter.systemd import Passed, Store

Group: TypeAlias = "tuple[socket.socket, ...]"
"""The sockets of one address."""
MOST: Final = 64
"""Sockets in a group. More queues than cores make nothing quicker, and each worker watches each of them."""


class Heirloom(NamedTuple):
    """A listening socket that one supervisor passes on to the next."""

    address: str
    """As in `bind`."""
    fd: int
    file: tuple[int, int] | None
    """Device and inode of the Unix socket's file, if one of us has made it."""
    activated: bool
    """Whether it is of a .socket unit."""
    kept: str | None
    """Its name in systemd's store, if it is kept there."""


class Listeners:
    """The sockets by their addresses."""

    def __init__(self, passed: Iterable[Passed], store: Store, inherited: Iterable[Heirloom] = ()) -> None:
        """With the descriptors that systemd passed: those of a .socket unit replace `bind`, those of its store fill it.

        What was `inherited` from the supervisor that has started this one is not ours to shut or to remove until `own`.

        Raises:
            StartError: one of them is no socket.
        """
        self._store = store
        self._open: dict[Address, Group] = {}
        self._steered: dict[Address, int] = {}
        """Among how many of a group connections are spread, where that is not left to the kernel."""
        self._files: dict[Address, tuple[int, int]] = {}
        """Device and inode of the files that were made for Unix sockets."""
        self._activated: dict[Address, socket.socket] = {}
        self._returned: list[tuple[str, socket.socket]] = []
        """What the store had for us, and no address has wanted yet."""
        self._lent: set[Address] = set()
        """Whose sockets are somebody else's: of a .socket unit, or inherited."""
        self._kept: dict[Address, tuple[str, ...]] = {}
        """Names in the store of the sockets that are ours."""
        self._inherited: dict[Address, Group] = {}
        """What no address has wanted yet."""
        self._shared: set[Address] = set()
        """Whose sockets, files and names in the store another supervisor has too, and answers for."""
        for heirloom in inherited:
            self._inherit(heirloom)
        for fd, name in passed:
            try:
                os.set_inheritable(fd, False)
                listener = socket.socket(fileno=fd)
            except OSError as error:
                raise StartError(f"systemd passed descriptor {fd} ({name}), which is no socket: {why(error)}.") from error
            if name.startswith(STORE_PREFIX):
                self._returned.append((name, listener))
            else:
                self._activated[Address(Scheme.FD, fd=fd)] = listener

    @property
    def activated(self) -> tuple[Address, ...]:
        """The sockets of a .socket unit; where there are any, they are what is listened on, whatever `bind` says."""
        return tuple(self._activated)

    def get(self, addresses: Iterable[Address], backlog: int, form: Form, share: int = 0) -> tuple[Group, ...]:
        """Listening, non-blocking sockets for each address: those that are open already, or new ones.

        Args:
            addresses: as in `bind`.
            backlog: of each socket.
            form: of what is made anew.
            share: how many sockets a TCP address is to have, at least; 0: one, at a port that can't be shared.

        Raises:
            StartError: an address can't be had; what this call had opened is closed again.
        """
        wanted = self.activated or tuple(dict.fromkeys(addresses))
        before = dict(self._open)
        try:
            for address in wanted:
                if address not in before:
                    self._open[address] = self._bind(address, backlog, form, share=share)
                elif self._has_lost_its_file(address):
                    # Who waits in the socket that can't be reached any more is served; it is one of a group from now on.
                    self._open[address] += self._bind(address, backlog, form, share=share)
                self._open[address] = self._grow(address, backlog, min(share, MOST), is_served=address in before)
        except BaseException:
            self.keep_only([tuple(before.values())])
            raise
        return tuple(self._open[address] for address in wanted)

    def keep_only(self, generations: Iterable[tuple[Group, ...]]) -> None:
        """Close what no generation uses any more, and spread connections over what all of them use."""
        used: dict[socket.socket, list[int]] = {}
        for generation in generations:
            for group in generation:
                used.setdefault(group[0], []).append(len(group))
        for address, group in list(self._open.items()):
            if not (sizes := used.get(group[0])):
                self._close(address)
                continue
            for listener in group[max(sizes) :]:
                self._remove_file(address)  # a Unix socket's, made anew by a reload that was refused
                listener.close()
            self._open[address] = group[: max(sizes)]
            if self._steered.get(address, min(sizes)) != min(sizes):
                self._steer(address, min(sizes))

    def leave_only(self, sockets: Iterable[socket.socket]) -> None:
        """In a child: close the copies of all but these. A copy that stays open keeps a port answering that nobody serves."""
        kept = set(sockets)
        for listener in {*chain.from_iterable(self._open.values()), *self._activated.values()} - kept:
            listener.close()

    def outlives(self, address: Address) -> bool:
        """Whether somebody else keeps the socket when we are gone."""
        return address in self._lent or address in self._kept or address in self._shared

    @property
    def has_doors(self) -> bool:
        """Whether there is a socket that ends with us: who waits in its queue is served by us or by nobody."""
        return any(not self.outlives(address) for address in self._open)

    def forget_returned(self) -> None:
        """Close what the store had for us and no address wanted."""
        for name, listener in self._returned:
            listener.close()
            self._store.remove(name)
        self._returned.clear()

    def bequeath(self) -> tuple[Heirloom, ...]:
        """All of them, for another supervisor to inherit."""
        return tuple(
            Heirloom(
                address=str(address),
                fd=listener.fileno(),
                file=self._files.get(address),
                activated=address in self._activated,
                kept=name,
            )
            for address, group in self._open.items()
            for listener, name in zip_longest(group, self._kept.get(address, ()))
        )

    def share(self) -> None:
        """Another supervisor has them too, and answers for them from now on."""
        self._shared.update(self._open)

    def own(self) -> None:
        """There is no other supervisor any more: what it had is ours, and what is not wanted of it goes."""
        self._shared.clear()
        for address in {*self._files, *self._kept} - self._open.keys():
            self._give_up(address)

    def forget_inherited(self) -> None:
        """Close what was inherited and no address wanted. Its file and its name in the store stay until `own`."""
        for listener in chain.from_iterable(self._inherited.values()):
            listener.close()
        self._inherited.clear()

    def _inherit(self, heirloom: Heirloom) -> None:
        address = parse_address(heirloom.address)
        listener = socket.socket(fileno=heirloom.fd)
        if heirloom.activated:
            self._activated[address] = listener
            return
        self._inherited[address] = (*self._inherited.get(address, ()), listener)
        self._shared.add(address)
        if heirloom.file:
            self._files[address] = heirloom.file
        if heirloom.kept:
            self._kept[address] = (*self._kept.get(address, ()), heirloom.kept)

    def keep_over_restart(self) -> None:
        """Have systemd keep the sockets that are ours, as far as its store has room; those outlive us from now on."""
        for address, group in self._open.items():
            if address in self._lent:
                continue
            kept = self._kept.get(address, ())
            names = (*kept, *(store_name(listener, index) for index, listener in enumerate(group) if index >= len(kept)))
            fits = [self._store.put(name, listener.fileno()) for name, listener in zip(names, group, strict=True)]
            if all(fits):
                self._kept[address] = names
            elif not kept:  # a group is kept whole, or ends with us
                for name in compress(names, fits):
                    self._store.remove(name)

    def shut(self) -> None:
        """Let nobody new in; who is in the queue stays there.

        TCP: a socket filter drops what comes for the listening socket itself (accepted connections have their own), so a
        client's SYN goes unanswered and it tries again a second later, when the socket is closed and refuses at once.
        Unix: the file is removed, so there is nothing to connect to.
        """
        for address, group in self._open.items():
            if self.outlives(address):
                continue
            self._remove_file(address)
            for listener in group:
                if listener.family != socket.AF_UNIX:
                    shut(listener)

    def end_if_empty(self) -> bool:
        """Once the doors are shut: stop listening, for all processes at once, if nobody is in any queue. Whether it did."""
        ours = [listener for address, group in self._open.items() if not self.outlives(address) for listener in group]
        waiting = select.poll()
        for listener in ours:
            waiting.register(listener, select.POLLIN)
        if ours and any(event & select.POLLIN for _, event in waiting.poll(0)):
            return False
        for listener in ours:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        return True

    def close(self) -> None:
        """Let go of all: of a socket that outlives us, its file and its place in the store stay."""
        for address in list(self._open):
            if self.outlives(address):
                for listener in self._open.pop(address):
                    listener.close()
            else:
                self._close(address)

    def names(self) -> list[str]:
        """Where the sockets really are, as URLs or as given: the kernel has chosen what was port 0."""
        return [display(address, group[0]) for address, group in self._open.items()]

    def _bind(self, address: Address, backlog: int, form: Form, *, share: int) -> Group:
        try:
            if address in self._activated:
                group: Group = (self._activated[address],)
                self._lent.add(address)
            elif inherited := self._inherited.pop(address, None):
                group = inherited
                if address.scheme is Scheme.FD:
                    self._lent.add(address)
            elif returned := self._take_returned(address):
                group = returned
            elif address.scheme is Scheme.UNIX:
                group = (self._bind_unix(address, form),)
            elif address.scheme is Scheme.FD:
                group = (socket.socket(fileno=os.dup(address.fd)),)
                self._lent.add(address)
            else:
                group = (bind_tcp(address, shared=share > 0, ipv6_only=form.ipv6_only or address.port in form.ipv4_ports),)
            for listener in group:
                if self.outlives(address) and not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listener.close()
                    raise StartError(f"{address} is not a listening socket. Was the right descriptor passed on?")
        except OSError as error:
            raise StartError(f"can't listen on {address}: {why(error)}.{advice(error)}") from error
        for listener in group:
            _listen(listener, backlog)
        return group

    def _grow(self, address: Address, backlog: int, size: int, *, is_served: bool) -> Group:
        """The group with so many sockets, if it can have more. While another supervisor has it too, it stays as it is."""
        group = self._open[address]
        if len(group) >= size or address in self._lent or address in self._shared or not is_shared(group[0]):
            return group
        fresh: list[socket.socket] = []
        try:
            if is_served:
                self._steer(address, len(group))
            while len(group) + len(fresh) < size:
                fresh.append(bind_beside(group[0]))
                _listen(fresh[-1], backlog)
        except OSError as error:
            for listener in fresh:
                listener.close()
            raise StartError(f"can't listen on {address} with {size} sockets: {why(error)}.{advice(error)}") from error
        if not is_served:
            self._steer(address, size)  # also in place of what was said before a restart
        return (*group, *fresh)

    def _steer(self, address: Address, count: int) -> None:
        steer(self._open[address][0], count)
        self._steered[address] = count

    def _take_returned(self, address: Address) -> Group | None:
        """The sockets of this address out of systemd's store, where they stay; None if it has none that can be reached."""
        found: list[tuple[str, socket.socket]] = []
        for name, listener in sorted(self._returned, key=lambda returned: (len(returned[0]), returned[0])):
            if is_at(listener, address) and name == store_name(listener, len(found)):
                found.append((name, listener))
        if not found:
            return None
        self._kept[address] = tuple(name for name, _ in found)
        if address.scheme is Scheme.UNIX and not address.is_abstract:
            self._files[address] = identity(address.path)
        self._returned = [returned for returned in self._returned if returned not in found]
        return tuple(listener for _, listener in found)

    def _bind_unix(self, address: Address, form: Form) -> socket.socket:
        path = f"\0{address.path[1:]}" if address.is_abstract else address.path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if not address.is_abstract:
                remove_if_stale(path)
            before = os.umask(form.umask if form.mode is None else 0o777 & ~form.mode)
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            if not address.is_abstract:
                self._files[address] = identity(path)
                give(path, form.owner)
        except BaseException:
            listener.close()
            self._remove_file(address)
            raise
        return listener

    def _close(self, address: Address) -> None:
        if address not in self._shared:
            self._give_up(address)
        self._lent.discard(address)
        self._steered.pop(address, None)
        for listener in self._open.pop(address):
            listener.close()

    def _give_up(self, address: Address) -> None:
        for name in self._kept.pop(address, ()):
            self._store.remove(name)
        self._remove_file(address)

    def _has_lost_its_file(self, address: Address) -> bool:
        """Whether somebody has removed the file of a Unix socket of ours: nobody can reach it, and nobody else may have it."""
        has_file = address.scheme is Scheme.UNIX and not address.is_abstract and not self.outlives(address)
        return has_file and not os.path.lexists(address.path)

    def _remove_file(self, address: Address) -> None:
        if made := self._files.pop(address, None):
            with suppress(OSError):
                if identity(address.path) == made:
                    os.unlink(address.path)


def _listen(listener: socket.socket, backlog: int) -> None:
    listener.setblocking(False)
    listener.listen(backlog)  # for an inherited socket too: listen(2) on one that listens only sets the backlog
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        # Accepted sockets inherit it (tcp(7)): one system call per listener instead of one per connection.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
