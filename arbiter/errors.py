"""What can keep the supervisor from starting, or a reload from being accepted."""

from __future__ import annotations


class StartError(Exception):
    """Something that the start needs is not to be had: an address, a file, a permission.

    The message is for the operator: what, why, what to do. At a start it ends the process with `Exit.START`; at a reload it
    refuses the new generation.
    """


def why(error: OSError) -> str:
    """The system's reason in a few words, without the number and the file name that the caller's sentence has."""
    return error.strerror or str(error)
