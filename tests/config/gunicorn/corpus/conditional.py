# env: APP_ENV=production
# log: 2 threaded workers
import os

if os.environ.get("APP_ENV") == "production":
    workers, threads = 2, 2
    loglevel = "info"
else:
    workers = 1
    reload = True
for name in ("timeout", "graceful_timeout"):
    globals()[name] = 25


class _Settings:
    keepalive = 75


keepalive = _Settings.keepalive
