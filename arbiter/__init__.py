"""Arbiter: a pre-fork process manager and web server for Python."""

__version__ = "0.1.0"
