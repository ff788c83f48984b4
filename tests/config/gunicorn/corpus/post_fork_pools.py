# log: pool of worker \d+ is open
# exit: pool of worker \d+ is closed
bind = "0.0.0.0:8000"
workers = 2
threads = 4
worker_class = "gthread"
preload_app = True


def post_fork(server, worker):
    import pools

    pools.pool = pools.Pool(worker.pid)
    server.log.info("pool of worker %d is open", worker.pid)


def worker_exit(server, worker):
    import pools

    pools.pool.close()
    worker.log.info("pool of worker %s is closed", worker.pid)
