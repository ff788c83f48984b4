# env: STATSD_HOST=127.0.0.1:8125
import os

workers = 1
statsd_host = os.environ["STATSD_HOST"]
statsd_prefix = "myapp"
dogstatsd_tags = "env:prod"
