# env: WEB_CONCURRENCY=2
# log: 2 sync workers
# exists: app-initialized
import os


def when_ready(server):
    open("app-initialized", "w").close()


def pre_fork(server, worker):
    open("app-initialized-early", "w").close()


bind = "unix:///tmp/nginx.socket"
forwarded_allow_ips = "*"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
max_requests_jitter = int(os.environ.get("JITTER", 10))
max_requests = int(os.environ.get("MAX", 500))
