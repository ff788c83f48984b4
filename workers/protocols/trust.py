"""Which peers are believed, by address and network."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

_KEPT: Final = 1024
"""Answers to remember: proxies have few addresses, and clients, who have many, must not make us grow."""
_MAPPED: Final = "::ffff:"


class Trust:
    """A list of peers."""

    __slots__ = ("_addresses", "_everybody", "_known", "_networks")

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks`: addresses, networks in CIDR form, or ``*``."""
        listed = tuple(networks)
        self._everybody = "*" in listed
        self._addresses = frozenset(entry for entry in listed if "/" not in entry)
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(entry) for entry in listed if "/" in entry]
        self._known: dict[str, bool] = {}

    def covers(self, host: str) -> bool:
        """Whether `host`, an address as `plain_host` gives it, is listed. The peer on a unix socket, ``""``, always is."""
        if self._everybody or host in self._addresses or not host:
            return True
        if not self._networks:
            return False
        found = self._known.get(host)
        if found is None:
            found = self._look(host)
            if len(self._known) < _KEPT:
                self._known[host] = found
        return found

    def _look(self, host: str) -> bool:
        try:
            address = ip_address(host.partition("%")[0])  # a link-local one has its zone: RFC 4007 section 11
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def plain_host(host: str) -> str:
    """An address as everybody writes it: an IPv4 client of a socket for both families is an IPv4 client."""
    return host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host
