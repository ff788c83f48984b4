"""Interfaces between a protocol and an application: WSGI, ASGI."""
