"""What a worker asks of the C library's heap: to give back what its boot has left, and to keep what requests leave.

Each module is read whole before it is made into objects, so an import leaves the heap full of holes, which the memory that is
used lies between: 2.4 MB of a worker with Django. Nobody would fill them, and glibc gives back only what is free at its top.
`trim` gives back the rest; it knows pages, so what is in use stays where it is.

glibc gives the top of its heap back to the kernel as soon as 128 KiB of it are free (M_TRIM_THRESHOLD, mallopt(3)), and the
next buffer has to be faulted in page by page. A few uploads or large responses at a time move that top in every turn: 23 page
faults for a request with a body of 64 KiB, and half of its processor time (182 us, with the heap kept 98).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

KEPT: Final = 4 << 20
"""Free bytes at the heap's top from which on it is given back: what 32 uploads of 64 KiB have under way, twice."""


def keep() -> None:
    """Have up to `KEPT` bytes of free memory kept for the next request.

    Where the user has set a threshold in the environment (MALLOC_TRIM_THRESHOLD_, GLIBC_TUNABLES) that one stays, and a C
    library that is not glibc does as it always does.
    """
    # glibc learns from a large block that is freed: the threshold becomes twice its size.
    bytes(KEPT // 2)


def trim() -> None:
    """Give all pages of the heap that are free back to the kernel, once: after the boot, when nothing will be freed any more.

    malloc_trim(3) is glibc's; with another C library nothing happens.
    """
    with suppress(ImportError, OSError, AttributeError):  # no ctypes, or no such function: a larger worker serves as well
        import ctypes  # the supervisor has it already, for all its workers: see `stock`

        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
