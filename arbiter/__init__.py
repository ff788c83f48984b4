"""Arbiter: a pre-fork process manager and web server for Python."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`serve` and `Arbiter`, imported when somebody asks for them: the supervisor imports this module too."""
    if name in ("Arbiter", "serve"):
        from importlib import import_module  # by name: whoever imports this module does not import that one

        found: object = getattr(import_module("arbiter.embed"), name)
        return found
    raise AttributeError(f"module 'arbiter' has no attribute {name!r}")
