# log: typed .Worker \d+.
from gunicorn.arbiter import Arbiter
from gunicorn.http.message import Request
from gunicorn.http.wsgi import Response
from gunicorn.workers.base import Worker

workers: int = 1


def post_fork(server: Arbiter, worker: Worker) -> None:
    server.log.info("typed %s", worker)


def post_request(worker: Worker, req: Request, environ: dict, resp: Response) -> None:
    worker.log.info("status %s", resp.status.split()[0])
