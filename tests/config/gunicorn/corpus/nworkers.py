# log: workers: 2 \(None\)
# exit: bye 0
workers = 2


def nworkers_changed(server, new_value, old_value):
    server.log.info("workers: %s (%s)", new_value, old_value)


def on_exit(server):
    server.log.info("bye %d", len(server.WORKERS))


on_reload = lambda server: server.log.info("reload")
