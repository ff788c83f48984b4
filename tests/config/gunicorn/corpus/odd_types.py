# env: W=2 T=45
# log: 2 sync workers
import os

workers = os.environ["W"]
timeout = os.environ["T"]
preload_app = "true"
worker_class = "egg:gunicorn#sync"
loglevel = "WARN" if False else "INFO"
bind = "127.0.0.1:8000,127.0.0.1:8001"
limit_request_line = 0
limit_request_fields = 200
limit_request_field_size = 0
