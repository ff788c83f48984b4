"""Start a server that has no command line for what the benchmarks need: embed.py cheroot|bjoern PORT MODULE:ATTR [THREADS]."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def cheroot(app: Any, port: int, threads: int) -> None:
    from cheroot import wsgi

    server = wsgi.Server(("127.0.0.1", port), app, numthreads=threads, max=threads, request_queue_size=1024, timeout=60)
    server.keep_alive_conn_limit = 4000  # 10 by default, and no flag for it
    server.start()


def bjoern(app: Any, port: int) -> None:
    import bjoern as server

    server.run(app, "127.0.0.1", port)


def main(name: str, port: str, target: str, threads: str = "1") -> None:
    module, _, attribute = target.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    if name == "cheroot":
        cheroot(app, int(port), int(threads))
    else:
        bjoern(app, int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
