"""Field blocks of HTTP/2 taken apart (HPACK, RFC 7541): the loop and the table; static table and Huffman code are hpack's.

``hpack.Decoder`` takes 90 us for a browser's fifteen fields, as much as three whole requests here; this takes a fifth. A test
holds the two to the same answers.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

_STATIC: Final = ((b"", b""), *HeaderTable.STATIC_TABLE)
"""From 1: RFC 7541 appendix A."""
_FIRST: Final = len(_STATIC)
_TABLE: Final = 4096
"""SETTINGS_HEADER_TABLE_SIZE that everybody begins with; we never send another one."""
_INTEGER: Final = 5
"""Octets that an integer may go on for after its prefix: more than 2**32 fit, and nothing here is as large."""

_decoded: dict[bytes, bytes] = {}
_DECODED_KEPT: Final = 1024  # user agents, languages, the paths of a site; who makes up others must not make us grow
_DECODED_SIZE: Final = 128  # bytes


class CompressionError(Exception):
    """A block that can't be decoded: the table is lost, and the connection with it (RFC 9113 section 4.3)."""


class OversizedError(Exception):
    """A block that becomes larger than the caller wants to hold; as fatal as the other one."""


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The integer whose prefix is in the low `bits` of the octet at `at` (section 5.1), and where the rest begins."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 7 * _INTEGER, 7):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise CompressionError


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    """The string at `at` (section 5.2), and where the rest begins."""
    coded = block[at] & 0x80
    length, at = _read_integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise CompressionError
    text = block[at:end]
    if not coded:
        return text, end
    known = _decoded.get(text)
    if known is None:
        known = decode_huffman(text)
        if length <= _DECODED_SIZE:
            if len(_decoded) >= _DECODED_KEPT:
                _decoded.clear()  # what is said again and again is soon there again
            _decoded[text] = known
    return known, end


class Decoder:
    """The decoder of one connection."""

    __slots__ = ("_entries", "_limit", "_most", "_size", "changed")

    def __init__(self, most: int) -> None:
        """`most`: bytes of names and values in one section, and 32 for each field."""
        self._most = most
        self._entries: deque[tuple[bytes, bytes]] = deque()  # the dynamic table, newest first
        self._size = 0
        self._limit = _TABLE
        self.changed = False
        """The last block has changed the table: what blocks meant before, they may mean no more."""

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The fields of a whole block.

        Raises:
            CompressionError, OversizedError: the decoder must not be used again.
        """
        self.changed = False
        try:
            return self._decode(block)
        except (IndexError, HPACKDecodingError):
            raise CompressionError from None

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        fields: list[tuple[bytes, bytes]] = []
        entries = self._entries
        room = self._most
        updates = 0
        at = 0
        end = len(block)
        while at < end:
            first = block[at]
            if first >= 0x80:  # section 6.1
                index = first & 0x7F
                if index == 0x7F:
                    index, at = _read_integer(block, at, 7)
                else:
                    at += 1
                if not index:
                    raise CompressionError
                field = _STATIC[index] if index < _FIRST else entries[index - _FIRST]
            elif first >= 0x40 or first < 0x20:  # sections 6.2.1 to 6.2.3
                index, at = _read_integer(block, at, 6 if first >= 0x40 else 4)
                if index:
                    name = (_STATIC[index] if index < _FIRST else entries[index - _FIRST])[0]
                else:
                    name, at = _read_string(block, at)
                value, at = _read_string(block, at)
                field = name, value
                if first >= 0x40:
                    self._add(field)
            else:  # section 6.3, and 4.2: at the beginning only
                if fields or updates == 2:  # more than two say nothing
                    raise CompressionError
                updates += 1
                limit, at = _read_integer(block, at, 5)
                if limit > _TABLE:
                    raise CompressionError
                self._limit = limit
                self._evict()
                continue
            room -= len(field[0]) + len(field[1]) + 32
            if room < 0:
                raise OversizedError
            fields.append(field)
        return fields

    def _add(self, field: tuple[bytes, bytes]) -> None:
        self._entries.appendleft(field)
        self._size += len(field[0]) + len(field[1]) + 32
        self._evict()

    def _evict(self) -> None:
        """Section 4.4: an entry larger than the table empties it."""
        self.changed = True
        while self._size > self._limit:
            name, value = self._entries.pop()
            self._size -= len(name) + len(value) + 32
