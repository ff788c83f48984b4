# asgi
# log: ready after
worker_class = "uvicorn.workers.UvicornWorker"
workers = 1
keepalive = 120
timeout = 120
