# log: ready after
from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

workers = 1
max_requests = int(os.getenv("GUNICORN_MAX_REQUESTS", "1000"))
max_requests_jitter = int(os.getenv("GUNICORN_MAX_REQUESTS_JITTER", "100"))


def post_fork(server: Arbiter, worker: Worker) -> None:
    worker.log.debug("forked %s", worker)


def post_request(worker, req, environ, resp):
    worker.log.debug("%s", req.path)
