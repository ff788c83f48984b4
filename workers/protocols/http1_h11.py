"""Heads by h11: the careful parser in pure Python, for platforms without a C extension and for comparison.

h11 repairs some framing fields (``Content-Length: 5, 5`` becomes ``5``, a repeated one disappears). The policy must judge
what was on the wire, so h11 has its say about the whole head, and the fields are handed on as they are written.
"""

from __future__ import annotations

import h11

from arbiter.workers.protocols.http1 import Head, as_written

_UNBOUNDED = 2**31  # heads are bounded before they come here; h11's own bound (16 KiB) is for incomplete ones


def parse(head: bytes) -> Head:
    """The parts of a whole, sound head."""
    written = as_written(head, "")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_UNBOUNDED)
    parser.receive_data(head.removeprefix(b"\r\n"))
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return written._replace(dispute="The head was refused by h11.")
    if not isinstance(event, h11.Request):
        raise TypeError(f"h11 read {event!r} in a whole head")
    return Head(event.method, event.target, written.fields)
