# log: ready after
import faulthandler
import signal

timeout = 20
graceful_timeout = 10
workers = 1


def worker_abort(worker):
    faulthandler.dump_traceback()
    worker.log.error("aborted %s", worker.pid)


def worker_int(worker):
    signal.raise_signal(0) if False else None
