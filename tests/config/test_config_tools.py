"""What is made from the table for people and their tools: help on one setting, other forms of the configuration, schema, shells."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from arbiter.config import completion, render
from arbiter.config.argv import SHELLS
from arbiter.config.provenance import ConfigError
from arbiter.config.resolve import resolve
from arbiter.config.schema import SETTINGS

ROOT = Path(__file__).parents[2]
SCHEMA: dict[str, Any] = json.loads(render.schema_text())


def is_valid(document: object) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(document))


# Help on one setting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_help_on_a_setting_says_all_that_the_documentation_says(name: str) -> None:
    row, text = SETTINGS[name], render.help_entry(name)

    assert text.startswith(f"{name}\n")
    assert " ".join(row.doc.replace("`", "").split()) in " ".join(text.split())
    assert all(word in text for word in (row.variable, *row.flags))


@pytest.mark.parametrize("name", ["keepalive", "--keep-alive", "keep-alive"])
def test_a_setting_is_found_by_its_name_and_by_its_flag(tmp_path: Path, name: str) -> None:
    resolved = resolve([f"--help={name}"], {}, str(tmp_path))

    assert render.help_entry(resolved.about).startswith("keepalive\n")


def test_help_on_a_setting_that_there_is_not_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting 'tiemout' \(command line\): did you mean 'timeout'\?"):
        resolve(["--help", "tiemout"], {}, str(tmp_path))


# The configuration in other forms -------------------------------------------------------------------------------------


def test_a_printed_toml_file_means_the_same_and_hides_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text('timeout = "1m"\nbind = "unix:a.sock"\n')
    first = resolve(["--print-config", "--format", "toml", "a:b"], {}, str(tmp_path))
    printed = render.CONFIG_FORMATS[first.about](first)
    (tmp_path / "arbiter.toml").write_text(printed)

    assert resolve([], {}, str(tmp_path)).settings == first.settings
    assert set(tomllib.loads(printed)) == {"timeout", "bind", "wsgi_app"}
    assert all(f"{name} = " in printed for name in SETTINGS)


def test_printed_json_has_each_value_with_its_origin_and_no_secret(tmp_path: Path) -> None:
    resolved = resolve(["--print-config", "--format=json", "-w", "3", "-e", "TOKEN=hunter2", "a:b"], {}, str(tmp_path))
    found = json.loads(render.CONFIG_FORMATS[resolved.about](resolved))

    assert found["settings"]["workers"] == {"value": 3, "origin": "--workers"}
    assert found["settings"]["raw_env"]["value"] == ["TOKEN=***"]
    assert set(found["settings"]) == set(SETTINGS)
    assert found["file"] is None


def test_a_format_without_anything_to_print_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--format goes with --print-config"):
        resolve(["--format", "json", "a:b"], {}, str(tmp_path))


# The schema -----------------------------------------------------------------------------------------------------------


def test_the_schema_in_the_documentation_is_fresh() -> None:
    written = (ROOT / "docs" / "arbiter.schema.json").read_text()

    assert render.schema_text() == written, "run: python -m arbiter.config.render schema > docs/arbiter.schema.json"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_schema_lets_pass_what_a_setting_takes(name: str) -> None:
    kind = SETTINGS[name].kind

    assert is_valid({name: kind.example})
    assert is_valid({name: kind.render(kind.parse(kind.example))})
    assert is_valid({name: kind.render(SETTINGS[name].default)})


@pytest.mark.parametrize(
    "wrong", [{"wokers": 3}, {"workers": 0}, {"workers": [1]}, {"timeout": -1}, {"worker_class": "synch"}, {"bind": [True]}]
)
def test_the_schema_refuses_what_arbiter_refuses(tmp_path: Path, wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    (tmp_path / "arbiter.toml").write_text(f'wsgi_app = "a:b"\n{name} = {json.dumps(value)}\n')

    assert not is_valid(wrong)
    with pytest.raises(ConfigError):
        resolve([], {}, str(tmp_path))


# Completion -----------------------------------------------------------------------------------------------------------


def run(*words: str) -> str:
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not installed (.ci/run installs it)")
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout


def complete_in_bash(*words: str) -> set[str]:
    line = " ".join(f"'{word}'" for word in words)
    script = (
        f'{completion.bash()}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _arbiter; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    return set(run("bash", "-c", script).split())


def complete_in_fish(*words: str) -> set[str]:
    script = f"{completion.fish()}\ncomplete -C '{' '.join(words)}'"
    return {line.partition("\t")[0] for line in run("fish", "--no-config", "-c", script).splitlines()}


@pytest.mark.process
def test_bash_completes_flags_and_the_words_of_a_choice() -> None:
    assert complete_in_bash("arbiter", "--max-req") == {"--max-requests", "--max-requests-jitter"}
    assert complete_in_bash("arbiter", "--log-level", "") == {"debug", "info", "warning", "error", "critical"}
    assert "keepalive" in complete_in_bash("arbiter", "--help", "k")


@pytest.mark.process
def test_fish_completes_flags_and_the_words_of_a_choice() -> None:
    assert complete_in_fish("arbiter", "--max-req") >= {"--max-requests", "--max-requests-jitter"}
    assert complete_in_fish("arbiter", "--log-level", "deb") == {"debug"}


@pytest.mark.process
def test_zsh_takes_the_script_and_knows_the_command_by_it() -> None:
    script = f"autoload -Uz compinit && compinit -D -u\n{completion.zsh()}\nprint $_comps[arbiter]; whence -w _arbiter"

    assert run("zsh", "-f", "-c", script).split("\n")[:2] == ["_arbiter", "_arbiter: function"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_flag_is_completed_in_every_shell(shell: str) -> None:
    script = completion.SCRIPTS[shell]()
    for row in SETTINGS.values():
        for flag in row.flags:
            spelling = flag.lstrip("-") if shell == "fish" else flag
            assert spelling in script
