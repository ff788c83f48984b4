# log: agent in worker \d+
import os

workers = int(os.environ.get("GUNICORN_WORKERS", "1"))
threads = int(os.environ.get("GUNICORN_THREADS", "2"))
forwarded_allow_ips = "*"


def post_worker_init(worker):
    try:
        import newrelic.agent
    except ImportError:
        worker.log.info("agent in worker %s: none", worker.age)
    else:
        newrelic.agent.initialize()
