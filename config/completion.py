"""What completes the command `arbiter` in a shell, made from the table: `eval "$(arbiter --completion bash)"`.

Flags, the words of those that take a choice, and files elsewhere. Everything is known when the script is made: completing
starts no Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from arbiter.config.argv import OPTIONS
from arbiter.config.kinds import Choice, Takes
from arbiter.config.schema import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class _Flag(NamedTuple):
    """One option with all its spellings."""

    spellings: tuple[str, ...]
    doc: str
    has_value: bool
    words: tuple[str, ...]
    """That the value can be; empty: anything, often a file."""


def _flags() -> list[_Flag]:
    found = []
    for row in SETTINGS.values():
        if row.flags:
            words = row.kind.words if isinstance(row.kind, Choice) else ()
            found.append(_Flag(row.flags, row.summary, row.kind.takes is not Takes.NONE, words))
    for option in OPTIONS:
        words = tuple(option.arguments.get("choices", tuple(SETTINGS) if "nargs" in option.arguments else ()))
        found.append(_Flag(option.flags, option.doc, bool(option.metavar), words))
    return found


def bash() -> str:
    """For bash (Programmable Completion in its manual)."""
    flags = _flags()
    cases = "".join(
        f'    {"|".join(flag.spellings)}) COMPREPLY=($(compgen -W {_quoted(flag.words)} -- "$word")); return ;;\n'
        for flag in flags
        if flag.words
    )
    takers = "|".join(spelling for flag in flags if flag.has_value and not flag.words for spelling in flag.spellings)
    every = [spelling for flag in flags for spelling in flag.spellings]
    return f"""\
# bash completion for arbiter: eval "$(arbiter --completion bash)"
_arbiter() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  case $before in
{cases}    {takers}) COMPREPLY=($(compgen -f -- "$word")); return ;;
  esac
  case $word in
    -*) COMPREPLY=($(compgen -W {_quoted(every)} -- "$word")) ;;
  esac
}}
complete -o default -F _arbiter arbiter
"""


def zsh() -> str:
    """For zsh (zshcompsys(1), _arguments)."""
    lines = []
    for flag in _flags():
        value = f":value:({' '.join(flag.words)})" if flag.words else ":value:_files" if flag.has_value else ""
        doc = flag.doc.replace("[", "(").replace("]", ")").replace(":", "\\:")
        lines += [f"  {_quoted([f'*{spelling}[{doc}]{value}'])} \\\n" for spelling in flag.spellings]
    return f"""\
#compdef arbiter
# zsh completion for arbiter: eval "$(arbiter --completion zsh)", after compinit
_arbiter() {{
  _arguments \\
{"".join(lines)}  '*:application:'
}}
compdef _arbiter arbiter
"""


def fish() -> str:
    """For fish (complete(1))."""
    lines = ["# fish completion for arbiter: arbiter --completion fish | source"]
    for flag in _flags():
        names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.spellings]
        value = f" -x -a {_quoted(flag.words)}" if flag.words else " -r" if flag.has_value else ""
        lines.append(f"complete -c arbiter {' '.join(names)}{value} -d {_quoted([flag.doc])}")
    return "\n".join(lines) + "\n"


SCRIPTS: Mapping[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def _quoted(words: Sequence[str]) -> str:
    """Words, joined by blanks, as one word of any of the three shells."""
    return "'" + " ".join(words).replace("'", "'\\''") + "'"
