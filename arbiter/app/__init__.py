"""Gunicorn's classes for programs that embed their server, under the same names: `gunicorn.app` becomes `arbiter.app`."""
