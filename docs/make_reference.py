"""The reference pages that are made from the code: command line, signals and exit statuses, hooks, lines of the log.

Run as ``python docs/make_reference.py``, which writes docs/reference/NAME for each of `PAGES`; a test fails when one is stale.
Lines of the log are found in the source itself, so none can be forgotten: see `_Logged`.
"""

from __future__ import annotations

import ast
import re
import signal
from pathlib import Path
from typing import NamedTuple

from arbiter import ctl, scaffold
from arbiter.config.argv import OPTIONS
from arbiter.config.callables import Hook
from arbiter.config.render import default_text
from arbiter.config.schema import HOOKS, SECTIONS, SETTINGS
from arbiter.hooks import WORKERS
from arbiter.news import News
from arbiter.signals import SIGNALS
from arbiter.spawn import SUPERVISORS_SIGNALS
from arbiter.workers.contract import DUMP_SIGNAL, Exit
from arbiter.workers.timelimit import NUDGE

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent / "reference"


def process_page() -> str:
    """Signals and exit statuses."""
    signals = "".join(
        f"| `{number.name}` | {f'`{row.command.value}`' if row.verb else ''} | {row.doc} |\n" for number, row in SIGNALS.items()
    )
    ignored = ", ".join(f"`{number.name}`" for number in SUPERVISORS_SIGNALS if number is not signal.SIGUSR1)
    exits = "".join(f"| {code.value} | {code.meaning} |\n" for code in Exit)
    return f"""\
# Signals and exit statuses

<!-- Made by docs/make_reference.py from the tables in arbiter/signals.py, arbiter/spawn.py and workers/contract.py. -->

## Signals

Send them to the supervisor, whose pid is in its first log line, in `pidfile`, and systemd's `$MAINPID`.
`arbiterctl -p PIDFILE VERB` sends the same.

| signal | verb | what it does |
|---|---|---|
{signals}
## Signals in a worker

| signal | what it does |
|---|---|
| `SIGTERM` | The worker finishes its requests and leaves; it is replaced. |
| `SIGINT`, `SIGQUIT` | Its requests are interrupted, and it leaves; it is replaced. |
| `SIGUSR1` | It opens its log files again. |
| {ignored} | Nothing: they are the supervisor's, and reach workers too when they are sent by name or from a terminal. |
| `SIGABRT` | Calls `worker_abort`, if there is one; then the worker ends. |
| `SIGIO`, `SIGRTMIN+{DUMP_SIGNAL - signal.SIGRTMIN}`, `SIGRTMIN+{NUDGE - signal.SIGRTMIN}` | \
Arbiter's own (the supervisor has gone; stacks; `request_timeout`): an application must leave them alone. |

## Exit statuses

| status | meaning |
|---|---|
{exits}"""


def command_page() -> str:
    """The command lines of both programs."""
    parts = [
        "# Command line\n",
        "<!-- Made by docs/make_reference.py from the tables in config/ and arbiter/. -->\n",
        "```\narbiter [OPTIONS] [MODULE:ATTR]\n```\n",
        "The application is a callable by the name of its module and its own in it; a factory is called: `shop:create_app()`.",
        "Every setting but a few is an option too; each links to what is said of it. `arbiter --help NAME` prints that.\n",
        "## Commands\n\n| option | what it does |\n|---|---|",
        *(f"| {_flags(option.flags, option.metavar)} | {_cell(option.doc)} |" for option in OPTIONS),
    ]
    for section in SECTIONS:
        rows = [row for row in SETTINGS.values() if row.section == section and row.flags]
        if rows:
            parts.append(f"\n## {section}\n\n| option | default | |\n|---|---|---|")
        parts += [
            f"| {_flags(row.flags, row.kind.metavar, f'../settings.md#{row.name}')} | {_cell(default_text(row))}"
            f" | {_cell(row.summary)} |"
            for row in rows
        ]
    actions = [action for action in scaffold.make_parser()._actions if action.help and "==" not in action.help]  # noqa: SLF001 - no other way to its options
    parts += [
        "\n## arbiter --init\n",
        "Writes `arbiter.toml` for the application in this directory, and files that deploy it. Nothing is overwritten.\n",
        "| option | what it does |\n|---|---|",
        *(
            f"| {_flags(tuple(action.option_strings) or (str(action.metavar or action.dest),), str(action.metavar or ''))}"
            f" | {_cell(str(action.help))} |"
            for action in actions
        ),
        "\n## arbiterctl\n\n```\narbiterctl -p PIDFILE [--wait] [--timeout SECONDS] VERB\n```\n",
        "Tells a running Arbiter what to do: each verb sends [a signal](process.md) to the owner of the pid file. The lock on",
        "the file says whether that lives, so a stale one never has a stranger signalled.\n",
        "| verb | signal | what it does |\n|---|---|---|",
        *(f"| `{row.command.value}` | `{number.name}` | {row.doc} |" for number, row in SIGNALS.items() if row.verb),
        f"| `{ctl.STATUS}` | | {ctl.STATUS_DOC} `--json`: for programs. |\n",
        f"`--wait` waits for the end of {', '.join(f'`{verb}`' for verb in ctl.WAITED)}. The exit status of a reload is 0 if",
        "it was accepted and all workers are of the new generation, and 1 if it was refused, with the reason on standard",
        "error. Without it, the command ends when the signal is sent. What it shows, it reads in the supervisor's memory,",
        "as the supervisor's user may, and root: nothing is asked of the service.",
    ]
    return "\n".join(parts) + "\n"


def hooks_page() -> str:
    """The operator's functions."""
    rows = []
    for name in HOOKS:
        row = SETTINGS[name]
        assert isinstance(row.kind, Hook)  # noqa: S101 - that is how HOOKS is made
        where = {"before_fork": "template", "ssl_context": "worker, template"}.get(
            name, "worker" if name in WORKERS else "supervisor"
        )
        rows.append(f"| [`{name}`](../settings.md#{name}) | {', '.join(row.kind.parameters)} | {where} | {_cell(row.doc)} |")
    return "\n".join(
        [
            "# Hooks\n",
            "<!-- Made by docs/make_reference.py from the tables in config/schema.py and arbiter/hooks.py. -->\n",
            "What they are given and may do, and what happens when one raises, is in [hooks](../hooks.md). The template is",
            "the process that loads the application and forks the workers, with `preload_app`.\n",
            "| hook | is called with | in | when |\n|---|---|---|---|",
            *rows,
            "",
        ]
    )


# The log --------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One that can be written."""

    level: str
    where: str
    """The module that writes it."""
    text: str
    """Markdown, with what is filled in in italics."""


LEVELS = ("debug", "info", "warning", "error", "critical", "exception")
LOGS = ("log", "_log", "lines", "_lines", "logger", "_logger")
"""What a log is called, wherever there is one."""
GIVEN = {
    ("arbiter.supervisor", "warning"): "*what a setting has to say, by its name and where it stands*",
    (
        "arbiter.nursery",
        "text",
    ): "the template *how*. The workers that live serve on; the next one has the application loaded anew.",
    ("arbiter.workers.interfaces.wsgi_environ", "line"): "*what the application writes to* `wsgi.errors`",
}
"""Lines that are made somewhere else than where they are written."""


class _Logged(ast.NodeVisitor):
    """Every call in a module that writes to a log, with its words.

    A line that is neither made where it is written, nor a constant of the module, nor in `GIVEN`, is an error: the page is
    complete or it is not made.
    """

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.module = module
        self.found: list[Line] = []
        self._constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        self.visit(tree)

    def visit_Call(self, node: ast.Call) -> None:
        """Look at one call, and at those in it."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "measure":  # a metric for statsd is a line too
            self.found.append(Line("debug", self.module, _cell(self._words(node.args[3]))))
        if not (isinstance(node.func, ast.Attribute) and node.args):
            return
        level, arguments = node.func.attr, node.args
        receiver = ast.unparse(node.func.value).rpartition(".")[2]
        own = receiver in ("self", "super()") and self.module in ("arbiter.glogging", "arbiter.stdlog")
        if level == "write" and isinstance(arguments[0], ast.Constant) and arguments[0].value in LEVELS:
            level, arguments = arguments[0].value, arguments[1:]
        if level not in LEVELS or not (receiver in LOGS or (own and _is_text(arguments[0]))):
            return
        line = self._words(arguments[0])
        if level == "exception":
            level, line = "error", f"{line} *traceback*"
        self.found.append(Line(level, self.module, _cell(re.sub(r"\s+", " ", line).strip())))

    def _words(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(text)):
                return re.sub(r"%[sd]", "*...*", _plain(text))
            case ast.JoinedStr(values=parts):
                return "".join(self._words(part) for part in parts)
            case ast.FormattedValue(value=value):
                return f"*{_named(value)}*"
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._words(left) + self._words(right)
            case ast.IfExp(body=body):
                return self._words(body)
            case ast.Call(func=ast.Attribute(value=value, attr="rstrip")):
                return self._words(value)
            case ast.Name(id=name) if name in self._constants:
                return self._words(self._constants[name])
            case ast.Name(id=name) if (self.module, name) in GIVEN:
                return GIVEN[self.module, name]
        raise LookupError(f"{self.module} logs {ast.unparse(node)}, and nobody knows what that says: add it to GIVEN")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _named(node: ast.expr) -> str:
    """What a blank is called: by the last name in what fills it."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_").lower()
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mult()):  # a plural's ending
            return text
        case ast.BinOp(op=ast.Sub()):
            return "seconds"
        case ast.BoolOp(values=[first, *_]) | ast.IfExp(body=first) | ast.Subscript(value=first):
            return _named(first)
        case ast.Call(func=ast.Attribute(value=value), args=[ast.Constant(), *_]):
            return _named(value)
        case ast.Call(func=func, args=arguments):
            return _named(func if "traceback" in ast.unparse(func) or not arguments else arguments[0])
    return "..."


def lines() -> list[Line]:
    """Every line that the code can write, but for those of `News`, module by module."""
    found: list[Line] = []
    for folder, package in (("arbiter", "arbiter"), ("workers", "arbiter.workers")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])
            found += _Logged(name, ast.parse(path.read_text())).found
    return list(dict.fromkeys(found))


def log_page() -> str:
    """What the log can say."""
    news = "".join(f"| {news.level} | {_shown(news.sentence)} |\n" for news in News)
    tables = {"arbiter": "", "arbiter.workers": ""}
    for line in lines():
        package = "arbiter.workers" if line.where.startswith("arbiter.workers.") else "arbiter"
        tables[package] += f"| {line.level} | {line.text} | `{line.where.removeprefix(package + '.')}` |\n"
    return f"""\
# Lines of the log

<!-- Made by docs/make_reference.py from the table in arbiter/news.py, and from every call that writes to a log. -->

Each line begins with time, level, `worker=` (its slot; `-` is the supervisor), `gen=` (the generation: which reload) and
`pid=`. Words in italics are filled in.

## What becomes of workers, reloads and the service

| level | line |
|---|---|
{news}
## What else the supervisor says

| level | line | from |
|---|---|---|
{tables["arbiter"]}
## What a worker says

| level | line | from |
|---|---|---|
{tables["arbiter.workers"]}"""


# Words ----------------------------------------------------------------------------------------------------------------


def _flags(flags: tuple[str, ...], metavar: str, link: str = "") -> str:
    *others, last = flags
    whole = [f"`{flag}`" for flag in others] + [f"`{last} {metavar}`" if metavar and metavar != last else f"`{last}`"]
    return ", ".join(f"[{flag}]({link})" if link else flag for flag in whole).replace("|", "\\|")


def _cell(text: str) -> str:
    """Text in a table, in one line."""
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("\n", " "))


def _plain(text: str) -> str:
    """Text of which nothing is markup."""
    return re.sub(r"([*_<])", r"\\\1", text)


def _shown(sentence: str) -> str:
    """A sentence of `News`, its blanks in italics."""
    marked = re.sub(r"\{(\w+)[^}]*\}", r"*\1*", re.sub(r"_(?![^{]*\})", r"\_", sentence))
    return _cell(re.sub(r"(?<=[\w.*])(\*\w+\*)(?=$|[*. ,;:)])", r" \1", marked).replace("  ", " "))


PAGES = {"command.md": command_page, "process.md": process_page, "hooks.md": hooks_page, "log.md": log_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
