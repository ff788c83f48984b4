"""What Gunicorn's own parser makes of its settings and of command lines, as JSON: `recorded.json` beside this file.

Run by hand where Gunicorn is installed, when its version changes: python tests/config/gunicorn/record.py > recorded.json
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from typing import Any

COMMAND_LINES = [
    "-w 4 -b 0.0.0.0:80 app:app",
    "--workers=4 --bind 127.0.0.1:8001 --bind unix:/tmp/a.sock app:app",
    "-b [::1]:8000 -b localhost:9000",
    "-k sync --threads 4",
    "-k gthread",
    "--worker-class gthread --threads 8 --worker-connections 500",
    "-t 120 --graceful-timeout 45 --keep-alive 5",
    "--timeout 0",
    "--max-requests 1000 --max-requests-jitter 50",
    "--limit-request-line 8190 --limit-request-fields 200 --limit-request-field_size 16380",
    "--backlog 64",
    "--preload",
    "--no-sendfile",
    "--chdir /tmp",
    "-e A=1 --env B=2=3 -e C=",
    "-p /tmp/x.pid",
    "-u 1000 -g 1000 -m 0o027 --initgroups",
    "-m 007",
    "--access-logfile - --error-logfile /tmp/e.log --log-level DEBUG",
    "--log-file=- --log-level=warning",
    "--access-logformat '%(h)s %(r)s'",
    "-n shop",
    "--pythonpath /tmp,/srv",
    "-D",
    "--capture-output",
    "--logger-class shop.logs.Logger",
    "--log-config /etc/logging.ini",
    "--log-config-json /etc/logging.json",
    "--log-syslog --log-syslog-to udp://localhost:515 --log-syslog-prefix shop --log-syslog-facility local3",
    "--statsd-host localhost:8125 --statsd-prefix shop --dogstatsd-tags env:prod,team:x",
    "--statsd-host unix:///tmp/statsd.sock",
    "--enable-backlog-metric",
    "--worker-tmp-dir /dev/shm -R --spew",
    "--permit-obsolete-folding --strip-header-spaces --casefold-http-method",
    "--dirty-app a:b --dirty-app c:d --dirty-workers 2 --dirty-timeout 9",
    "--paste development.ini --paste-global a=b",
]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | list | dict | None) else repr(value)


def main() -> None:
    import shlex

    import gunicorn  # installed where this is run, and nowhere else
    from gunicorn.config import KNOWN_SETTINGS, Config

    machines = {"chdir", "user", "group", "control_socket"}  # their defaults are this machine's
    settings = {}
    for row in KNOWN_SETTINGS:
        is_hook = callable(row.default)
        settings[row.name] = {
            "section": row.section,
            "flags": row.cli or [],
            "takes": {"append": "many", "store_true": "none", "store_const": "none"}.get(row.action, "one"),
            "default": None if is_hook or row.name in machines else _plain(row.default),
            "parameters": list(inspect.signature(row.default).parameters) if is_hook else None,
        }
    lines = []
    for line in COMMAND_LINES:
        config = Config()
        given = vars(config.parser().parse_args(shlex.split(line)))
        names = [name for name, value in given.items() if value is not None and name not in {"args", "config"}]
        for name in names:
            config.set(name, given[name])
        lines.append([line, {name: _plain(config.settings[name].get()) for name in sorted(names)}])
    json.dump({"version": gunicorn.__version__, "settings": settings, "command_lines": lines}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    os.environ.pop("PORT", None)
    main()
