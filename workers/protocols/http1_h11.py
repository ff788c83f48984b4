"""Heads by h11: the careful parser in pure Python, for platforms without a C extension and for comparison.

h11 repairs some framing fields (``Content-Length: 5, 5`` becomes ``5``, a repeated one disappears). The policy must judge
what was on the wire, so what h11 read is compared with what is written there.
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
    # Transfer-Encoding is the one value whose case h11 folds; the policy folds it too, so that is no repair.
    folded = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in written.fields]
    if list(event.headers) != folded:
        return written._replace(dispute="A framing field was repaired by h11.")
    return Head(event.method, event.target, written.fields)
