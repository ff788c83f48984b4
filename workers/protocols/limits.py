"""How much one client may make us hold or count, whatever the protocol.

Every number is a bound on memory or work that an unknown client controls. A length of 0 is never "unlimited" here:
`Limits.of` turns Gunicorn's zeroes into the largest value that the total still bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from sys import maxsize
from typing import Final

_TOTAL: Final = 64 * 1024
"""The least total of a request head: nginx takes 4 x 8 KiB (large_client_header_buffers), Node.js 16 KiB, both of them
with complaints about long cookies; one 64 KiB read holds it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, without the line end, unless said otherwise."""

    request_line: int = 4094
    """Gunicorn's limit_request_line; RFC 9112 section 3 asks for at least 8000 where a URI may be long, so it is a setting."""
    fields: int = 100
    """How many field lines a head (or a trailer section) may have: Gunicorn's and Apache's limit_request_fields."""
    field_size: int = 8190
    """One field line: Gunicorn's and Apache's limit_request_field_size."""
    head: int = _TOTAL
    """The whole head, line ends included."""
    body: int = maxsize
    """Content after the chunked framing is undone."""
    chunk_line: int = 1024
    """One chunk-size line with its extensions. Nobody is known to use extensions; a signature (AWS SigV4) takes 85."""
    chunk_extensions: int = 16 * 1024
    """All extensions of one body, as in Node.js (CVE-2024-22019: an endless extension kept a connection busy)."""
    trailers: int = 8 * 1024
    """The whole trailer section: Apache's and Go's way is to treat it as a small head."""

    @classmethod
    def of(cls, *, request_line: int, fields: int, field_size: int, body: int) -> Limits:
        """The limits for Gunicorn's four settings, where 0 asks for no limit of its own."""
        line = request_line or _TOTAL
        size = field_size or _TOTAL
        return cls(
            request_line=line,
            fields=fields or _TOTAL // 4,  # the shortest field line, "a:" and its line end, has four bytes
            field_size=size,
            head=max(_TOTAL, line + size + 4),  # what the two settings allow must fit together at least once
            body=body or maxsize,
        )
