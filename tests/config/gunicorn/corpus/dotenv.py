# log: 1 sync worker
import os
from pathlib import Path

for line in Path(__file__).with_name("dot.env").read_text().splitlines():
    key, _, value = line.partition("=")
    os.environ.setdefault(key, value)

workers = int(os.environ["DOT_WORKERS"])
wsgi_app = os.environ["DOT_APP"]
