# env: PROMETHEUS_MULTIPROC_DIR=.
# exit: child_exit
import os

from metrics_helper import mark_process_dead

bind = ["127.0.0.1:8000", "127.0.0.1:9090"]
workers = 2


def child_exit(server, worker):
    mark_process_dead(worker.pid, os.environ["PROMETHEUS_MULTIPROC_DIR"])
    print("child_exit", worker.pid, flush=True)
