"""The PROXY protocol's header, versions 1 and 2: bytes in, the client's address out.

Source: the PROXY protocol, versions 1 & 2 (haproxy.org, doc/proxy-protocol.txt). It demands what is done here: where a header
is expected there must be one (section 2: a receiver must not guess), and a malformed one ends the connection.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from arbiter.workers.protocols.policy import Refusal

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_LONGEST_V1: Final = 107
"""Section 2.1: 107 bytes hold the longest line, its line end included."""
_LONGEST_V2: Final = 4096
"""Addresses and TLVs. Section 2.2 wants 536 bytes to be enough without TLVs; cloud providers add some hundred, and HAProxy a
client certificate's names."""
_V2_FIXED: Final = 16
_V1: Final = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
)
_UNIX_SIZE: Final = 216
_TLV_FIXED: Final = 3


class Endpoint(NamedTuple):
    """One end of the proxy's connection with its client."""

    host: str
    port: int


class Proxied(NamedTuple):
    """What a header says."""

    protocol: str
    """As in version 1: ``TCP4``, ``TCP6``, ``UNKNOWN``; ``LOCAL`` and ``UNIX`` for what only version 2 has."""
    source: Endpoint | None = None
    """The client; None: the peer speaks for itself, or for somebody without such an address."""
    destination: Endpoint | None = None
    """Where the client has connected to."""


class ProxyReader:
    """Reads the one header at the beginning of a connection; of no use after it was found or refused."""

    __slots__ = ("_buffer", "_versions", "rest")

    def __init__(self, version: str) -> None:
        """`version`: ``v1``, ``v2``, or ``auto`` for both."""
        self._versions = ("v1", "v2") if version == "auto" else (version,)
        self._buffer = b""
        self.rest = b""
        """What came after the header."""

    def feed(self, data: bytes) -> Proxied | None:
        """What the header says, once it is whole; None: feed more.

        Raises:
            Refusal: 400; this is no header, or one that is malformed.
        """
        self._buffer += data
        buffer = self._buffer
        if "v2" in self._versions and _may_begin(buffer, SIGNATURE):
            return self._read_v2(buffer)
        if "v1" in self._versions and _may_begin(buffer, b"PROXY "):
            return self._read_v1(buffer)
        raise Refusal(400, "The connection does not begin with a PROXY header.")

    def _read_v1(self, buffer: bytes) -> Proxied | None:
        end = buffer.find(b"\n", 0, _LONGEST_V1)
        if end < 0:
            if len(buffer) >= _LONGEST_V1:
                raise Refusal(400, "The PROXY header's line is too long.")
            return None
        line = buffer[: end - 1]
        if buffer[end - 1 : end] != b"\r" or b"\r" in line:
            raise Refusal(400, "The PROXY header's line does not end with CRLF.")
        self.rest = buffer[end + 1 :]
        if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
            return Proxied("UNKNOWN")  # whatever else is on the line is to be ignored: section 2.1
        match = _V1.fullmatch(line)
        if not match:
            raise Refusal(400, "The PROXY header is malformed.")
        kind = IPv4Address if match[1] == b"TCP4" else IPv6Address
        ends = [_endpoint(kind, match[at].decode(), int(match[at + 2])) for at in (2, 3)]
        return Proxied(match[1].decode(), *ends)

    def _read_v2(self, buffer: bytes) -> Proxied | None:
        if len(buffer) < _V2_FIXED:
            return None
        version, command = buffer[12] >> 4, buffer[12] & 0xF
        family, transport = buffer[13] >> 4, buffer[13] & 0xF
        size = int.from_bytes(buffer[14:16], "big")
        if version != 2 or command > 1:
            raise Refusal(400, "The PROXY header has an unknown version or command.")
        if size > _LONGEST_V2:
            raise Refusal(400, "The PROXY header is too long.")
        end = _V2_FIXED + size
        if len(buffer) < end:
            return None
        self.rest = buffer[end:]
        body = buffer[_V2_FIXED:end]
        if command == 0:
            return Proxied("LOCAL")  # a health check of the proxy's own: its addresses are to be ignored
        if (family, transport) == (0, 0):
            return Proxied("UNKNOWN")
        if transport != 1:
            raise Refusal(400, "The PROXY header is not about a stream.")
        if family == 1:
            return self._addresses("TCP4", body, IPv4Address, 4)
        if family == 2:
            return self._addresses("TCP6", body, IPv6Address, 16)
        if family == 3:
            _check_tlvs(body, _UNIX_SIZE)
            return Proxied("UNIX")
        raise Refusal(400, "The PROXY header has an unknown address family.")

    @staticmethod
    def _addresses(protocol: str, body: bytes, kind: type[IPv4Address | IPv6Address], size: int) -> Proxied:
        ports = 2 * size
        _check_tlvs(body, ports + 4)
        return Proxied(
            protocol,
            Endpoint(str(kind(body[:size])), int.from_bytes(body[ports : ports + 2], "big")),
            Endpoint(str(kind(body[size:ports])), int.from_bytes(body[ports + 2 : ports + 4], "big")),
        )


def _may_begin(buffer: bytes, mark: bytes) -> bool:
    return buffer[: len(mark)] == mark[: len(buffer)]


def _endpoint(kind: type[IPv4Address | IPv6Address], text: str, port: int) -> Endpoint:
    try:
        host = str(kind(text))
    except AddressValueError:
        raise Refusal(400, "The PROXY header holds what is no address.") from None
    if port > 0xFFFF:
        raise Refusal(400, "The PROXY header holds what is no port.")
    return Endpoint(host, port)


def _check_tlvs(body: bytes, at: int) -> None:
    """Nothing, if `body[at:]` is a sequence of whole TLVs (section 2.2): none is used, but a wrong one means a wrong length."""
    while at < len(body):
        at += _TLV_FIXED + int.from_bytes(body[at + 1 : at + 3], "big") if at + _TLV_FIXED <= len(body) else len(body)
    if at != len(body):
        raise Refusal(400, "The PROXY header's length and its content do not agree.")
