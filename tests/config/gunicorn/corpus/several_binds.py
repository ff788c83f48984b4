# log: listening on http://127.0.0.1:\d+
bind = ["0.0.0.0:8000", "[::]:8001", "unix:/tmp/app.sock"]
workers = 2
reuse_port = True
