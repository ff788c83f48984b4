"""The secret key, made once and kept, by however many processes that start at the same moment."""

import os
import secrets
from pathlib import Path


def secret_key(path: Path) -> str:
    """The key in `path`, which is made, readable by its owner only, if it is not there."""
    try:
        return path.read_text()
    except FileNotFoundError:
        pass
    # Written whole under another name, then linked: a link is made by exactly one process, and nobody reads half a key.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    try:
        draft.write_text(secrets.token_urlsafe(50))
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()
