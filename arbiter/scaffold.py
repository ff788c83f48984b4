"""`arbiter --init`: a configuration for the directory, and the files that deploy it. It never overwrites anything."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from arbiter import templates
from arbiter.config.argv import INIT
from arbiter.config.provenance import Source
from arbiter.config.pyfile import MODULE_NAME
from arbiter.config.render import default_text, literal
from arbiter.config.resolve import resolve
from arbiter.config.schema import SETTINGS
from arbiter.project import ASGI, find

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbiter.config.resolve import Resolved
    from arbiter.project import Project

SHOWN: Final = (
    "workers",
    "threads",
    "timeout",
    "request_timeout",
    "graceful_timeout",
    "max_requests",
    "max_requests_jitter",
    "preload_app",
    "warmup",
    "health_path",
    "accesslog",
    "access_log_json",
    "raw_env",
)
"""Settings that a new file shows as comments: those that people change."""
GRACEFUL_TIMEOUT: Final = int(SETTINGS["graceful_timeout"].default)


class Plan(NamedTuple):
    """What is to be written, and what is to be said."""

    files: dict[str, str]
    """Texts by path, relative to the directory."""
    words: list[str]


def make_parser() -> argparse.ArgumentParser:
    """The options of `arbiter --init`."""
    parser = argparse.ArgumentParser(
        prog="arbiter --init",
        description="Write arbiter.toml for the application in this directory, and files that deploy it. "
        "Nothing is overwritten.",
        allow_abbrev=False,
    )
    parser.add_argument(INIT, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--from-gunicorn", metavar="FILE", help="take the settings from a configuration file of Gunicorn's")
    parser.add_argument("--systemd", action="store_true", help="also a unit, and a socket unit")
    parser.add_argument("--nginx", action="store_true", help="also a site for nginx")
    parser.add_argument("--haproxy", action="store_true", help="also a frontend and a backend for HAProxy")
    parser.add_argument("--docker", action="store_true", help="also a Dockerfile, and a compose file")
    parser.add_argument("--kubernetes", action="store_true", help="also a Deployment and a Service")
    parser.add_argument("--name", help="of the site [the directory's name]")
    parser.add_argument("app", nargs="?", help="MODULE:ATTR of the application [what is found]")
    return parser


def plan(argv: Sequence[str], directory: str, environ: Mapping[str, str]) -> Plan:
    """What `arbiter --init` with these arguments writes.

    Raises:
        ConfigError: the file of ``--from-gunicorn`` can't be used.
        SystemExit: the arguments can't (argparse has said why), or asked for help.
    """
    options = make_parser().parse_args(argv)
    project = find(directory)
    if options.app:
        project = project._replace(app=options.app, why="the command line")
    name = _name(options.name or os.path.basename(directory))
    has_socket = options.nginx and not (options.haproxy or options.docker or options.kubernetes)
    address = f"unix:/run/{name}/http.sock" if has_socket else "127.0.0.1:8000"
    words = []
    files = {}
    if options.from_gunicorn:
        settings = resolve(["--print-config", "-c", options.from_gunicorn], environ, directory)
        files["arbiter.toml"], notes = _translated(settings, options.from_gunicorn, project)
        words += notes
    else:
        listens = address if options.systemd else "127.0.0.1:8000"
        files["arbiter.toml"] = configuration(project, listens, has_health=options.haproxy)
    if not project.app and not options.from_gunicorn:
        words.append("No application was found: write its module:attribute into arbiter.toml, as wsgi_app.")
    elif project.app:
        words.append(
            f"The application is {project.app}{f' ({project.framework}, {project.why})' if project.framework else ''}."
        )
    if options.systemd:
        command = f"{os.path.join(os.path.dirname(sys.executable), 'arbiter')} -c {os.path.join(directory, 'arbiter.toml')}"
        unit = templates.service(name, command=command, directory=directory, user=name, graceful_timeout=GRACEFUL_TIMEOUT)
        listen = address.removeprefix("unix:")
        files[f"deploy/{name}.service"] = unit
        files[f"deploy/{name}.socket"] = templates.unit_socket(name, address=listen, group="www-data")
        words.append(
            f"As root: adduser --system --group {name}; cp deploy/{name}.service /etc/systemd/system/; "
            f"systemctl daemon-reload; systemctl enable --now {name}"
        )
        words.append(
            f"The service reads {directory} as the user {name}, and writes nothing but /var/lib/{name} and "
            f"/run/{name}: a database in a file, and uploads, belong in the first."
        )
    if options.nginx:
        static = os.path.join(directory, project.static) if project.static else ""
        upstream = address if options.systemd else "127.0.0.1:8000"
        files[f"deploy/{name}.nginx.conf"] = templates.nginx(name, upstream=upstream, static=static, server_name="_")
        words.append(
            f"As root: cp deploy/{name}.nginx.conf /etc/nginx/conf.d/{name}.conf; rm -f /etc/nginx/sites-enabled/default; "
            "nginx -t && systemctl reload nginx"
        )
        if project.framework == "Django" and not static:
            words.append(
                f"Nobody serves Django's static files yet: set STATIC_ROOT, run manage.py collectstatic, and have "
                f"deploy/{name}.nginx.conf written anew."
            )
    if options.haproxy:
        files[f"deploy/{name}.haproxy.cfg"] = templates.haproxy(name, upstreams=["127.0.0.1:8000"])
        words.append(
            f'It asks /healthz: arbiter.toml must have health_path = "/healthz". As root: cat deploy/{name}.haproxy.cfg '
            ">> /etc/haproxy/haproxy.cfg; haproxy -c -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy"
        )
    if options.docker:
        files["Dockerfile"] = _dockerfile(directory, project)
        files[".dockerignore"] = templates.dockerignore()
        files["compose.yaml"] = templates.compose(name, graceful_timeout=GRACEFUL_TIMEOUT)
        if not {"requirements.txt", "pyproject.toml"} & set(os.listdir(directory)):
            words.append(
                "Neither requirements.txt nor pyproject.toml is here: write what else the application needs into Dockerfile."
            )
        words.append("docker compose up --build")
    if options.kubernetes:
        files["deploy/kubernetes.yaml"] = templates.kubernetes(name, graceful_timeout=GRACEFUL_TIMEOUT)
        words.append("kubectl apply -f deploy/kubernetes.yaml")
    return Plan(files, words)


def write(files: Mapping[str, str], directory: str) -> tuple[list[str], list[str]]:
    """Write the files that are not there; the paths that were written, and those that were left alone.

    Raises:
        OSError: one can't be written.
    """
    written, kept = [], []
    for path, text in files.items():
        whole = os.path.join(directory, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        try:
            with open(whole, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            kept.append(path)
        else:
            written.append(path)
    return written, kept


_HEAD: Final = """\
# The configuration of Arbiter. All settings: docs/settings.md, or arbiter --help. What is in force: arbiter --print-config.
# Editors complete and check this file (taplo), once there is a schema: arbiter --print-schema > .arbiter.schema.json
#:schema ./.arbiter.schema.json

"""


def configuration(project: Project, address: str, *, has_health: bool = False) -> str:
    """A new arbiter.toml: the application and its address, and as comments what people change; `health_path` if it is asked.

    Django imports urls.py, and with it all views, with the first request. A new one is therefore warmed up: a mistake in a view
    would otherwise pass every reload, and be answered with 500 by all workers.
    """
    app = project.app or "module:application"
    found = f"  # {project.framework}, found in {project.why}" if project.framework else ""
    parts = [_HEAD, f"{'' if project.app else '# '}wsgi_app = {literal(app)}{found}\n"]
    if project.path != ".":
        parts.append(f"pythonpath = [{literal(project.path)}]\n")
    parts.append(f"bind = {literal(address)}\n")
    for name in SHOWN:
        row = SETTINGS[name]
        if name == "threads" and project.interface == ASGI:
            continue
        shown = literal(row.kind.render(row.kind.parse(row.kind.example)))
        mark = "" if name == "health_path" and has_health else "# "
        why = ""
        if name == "warmup" and project.framework == "Django":
            mark, shown = "", '["/"]'
            why = "\n# Django reads urls.py and its views with the first request: this way a mistake in them refuses a reload."
        parts.append(f"\n# {row.summary}. Default: {default_text(row)}.{why}\n{mark}{name} = {shown}\n")
    return "".join(parts)


def _translated(resolved: Resolved, shown: str, project: Project) -> tuple[str, list[str]]:
    """The settings of a file as arbiter.toml, and what is to be done by hand."""
    parts = [_HEAD, f"# From {shown}.\n"]
    notes = [f"{shown}: {warning}" for warning in resolved.warnings]
    given = [name for name, origin in resolved.origins.items() if origin.source is Source.FILE]
    if "wsgi_app" not in given and project.app:
        parts.append(f"wsgi_app = {literal(project.app)}  # {project.why}\n")
    for name in given:
        value = SETTINGS[name].kind.render(getattr(resolved.settings, name))
        module, _, function = str(value).partition(":")
        if module == MODULE_NAME:
            notes.append(
                f"{resolved.origins[name]}: {name} stands in the file itself, where TOML can't name it. "
                f'Move it into a module, hooks.py say, and write {name} = "hooks:{function}".'
            )
        else:
            parts.append(f"{name} = {literal(value)}  # {resolved.origins[name]}\n")
    parts += [f"# {note}\n" for note in notes]
    return "".join(parts), notes


def _dockerfile(directory: str, project: Project) -> str:
    has = {name for name in ("requirements.txt", "pyproject.toml") if os.path.exists(os.path.join(directory, name))}
    if "requirements.txt" in has:
        install = "COPY requirements.txt .\nRUN pip install -r requirements.txt arbiter-server\n"
    elif "pyproject.toml" in has:
        install = "COPY . .\nRUN pip install . arbiter-server\n"
    else:
        # What a project needs beside its framework is written nowhere; with that alone a new one starts.
        install = f"RUN pip install {' '.join(['arbiter-server', *filter(None, [project.framework.lower()])])}\n"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return templates.dockerfile(python=python, install=install, app=project.app or "module:application")


def _name(text: str) -> str:
    """A name that systemd, nginx, Docker and Kubernetes take alike (RFC 1123 label)."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63] or "site"
