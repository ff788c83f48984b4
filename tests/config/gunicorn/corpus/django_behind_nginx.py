"""Django behind nginx on a Unix socket."""
# log: all 3 workers are ready
bind = "unix:/run/gunicorn/shop.sock"
workers = 3
timeout = 60
keepalive = 5
max_requests = 1000
max_requests_jitter = 50
accesslog = "-"
errorlog = "-"
loglevel = "info"
proc_name = "shop"
umask = 0o007
