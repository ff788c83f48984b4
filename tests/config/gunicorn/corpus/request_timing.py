# log: GET / took \d
import time

workers = 1


def pre_request(worker, req):
    req.started = time.monotonic()
    worker.log.debug("%s %s", req.method, req.path)


def post_request(worker, req):
    worker.log.info("%s %s took %.6f", req.method, req.path, time.monotonic() - req.started)
