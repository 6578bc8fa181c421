from __future__ import annotations

import re
from pathlib import Path

import pytest

from gfs_dist.cli.arguments import COMMANDS, OPTIONS, read_arguments
from gfs_dist.cli.help import command_help, overview
from gfs_dist.config.compose import compose
from gfs_dist.errors import InputError


def test_options_may_stand_anywhere() -> None:
    one = read_arguments(["--json", "prune", "steps=3", "--dry-run", "out=x", "--config-dir", "d"])
    assert (one.command, one.words) == ("prune", ("steps=3", "out=x"))
    assert (one.json, one.dry_run, one.config_dir, one.debug) == (True, True, Path("d"), False)


def test_nothing_asks_for_the_overview() -> None:
    assert read_arguments([]).command is None


@pytest.mark.parametrize(
    "path", ["runs/x", "a b", 'say "hi"', "back\\slash", "end\\", "käse", "runs/lr=0.1/x"]
)
def test_path_becomes_its_key(path: str) -> None:
    words = read_arguments(["evaluate", path, "seed=3"]).words
    assert compose("evaluate", words).path == path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prne"], r"^'prne' is no command, accepted pretrain, prune, .*; did you mean prune\?$"),
        (["steps=3"], r"^'steps=3' is no command"),
        (["prune", "RUN"], r"^'RUN' has no place in gfs prune, accepted key=value$"),
        (["evaluate", "a", "b"], r"^'b' has no place in gfs evaluate"),
        (["prune", "--open"], r"^--open: accepted by gfs report only$"),
        (["prune", "--verbose"], r"^unrecognized arguments: --verbose; gfs --help lists"),
        (["prune", "--cfg", "all"], r"^argument --cfg: invalid choice: 'all'"),
        (["prune", "--config-dir"], r"^argument --config-dir: expected one argument"),
        (["prune", "--js"], r"^unrecognized arguments: --js"),
        (["prune", "--dryrun"], r"^unrecognized arguments: --dryrun; .*did you mean --dry-run\?$"),
        (["prune", "-dry_run"], r"did you mean --dry-run\?$"),
        (["prune", "--config-dri=x"], r"did you mean --config-dir\?$"),
        (["prune", "--steps=3"], r"; keys are written key=value$"),
        (["hlep"], r"; did you mean help\?$"),
        (["help", "prne"], r"^'prne' is no command, .*; did you mean prune\?$"),
        (["version", "x"], r"^'x' has no place in gfs version, accepted key=value$"),
        (["help", "prune", "x"], r"^'x' has no place in gfs prune"),
    ],
)
def test_bad_usage_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_arguments(argv)
    assert caught.value.exit_code == 2


def test_open_is_a_key_of_report() -> None:
    assert read_arguments(["report", "--open", "RUN"]).words == ('path="RUN"', "open=true")


def test_report_takes_any_number_of_run_folders() -> None:
    found = read_arguments(["report", "A", "out=x", "B b", "C"])
    assert found.words == ('path="A"', 'others=["B b","C"]', "out=x")


def test_overview_lists_commands_and_options() -> None:
    page = overview()
    assert all(f"\n  {command} " in page for command in COMMANDS)
    assert all(f"\n  {option} " in page for option in OPTIONS)


def test_help_of_a_command_lists_keys_with_defaults_and_meaning() -> None:
    page = command_help("prune")
    assert "usage: gfs prune [key=value ...]" in page
    for line in (
        r"steps=null  .*picks at most",
        r"budget\.macs=null  .*share kept of all multiply-adds",
        r"data=digits  .*\(default\)",
        r"data\.planted=10  .*neurons that make the target",
    ):
        assert any(re.search(line, row) for row in page.splitlines()), line
    assert "usage: gfs evaluate PATH [key" in command_help("evaluate")
    assert "usage: gfs report PATH... [key" in command_help("report")


def test_help_and_version_are_commands_too() -> None:
    assert read_arguments(["help"]) == read_arguments(["--help"])
    assert read_arguments(["help", "help"]) == read_arguments(["--help"])
    for command in COMMANDS:
        assert read_arguments(["help", command]) == read_arguments([command, "--help"])
    assert read_arguments(["version"]) == read_arguments(["--version"])


def test_help_of_a_command_has_its_own_options_alone() -> None:
    own = {"report": {"--open"}, "submit": {"--no-wait", "--insecure"}, "prune": set()}
    own["logs"] = {"-f, --follow", "--insecure"}
    for command, options in own.items():
        page = command_help(command)
        assert {option for option in OPTIONS if f"\n  {option} " in page} == options
        assert page.endswith("\nOptions of every command, as --dry-run and --json: gfs --help")


def test_commands_about_jobs_take_their_words_in_order() -> None:
    assert read_arguments(["status", "a-1"]).words == ('id="a-1"',)
    assert read_arguments(["fetch", "a-1", "there"]).words == ('id="a-1"', 'into="there"')
    assert read_arguments(["logs", "a-1", "-f"]).words == ('id="a-1"', "follow=true")
    words = read_arguments(["submit", "finetune", "PATH", "seed=3", "--insecure"]).words
    assert words == ('job="finetune"', 'path="PATH"', "seed=3", "insecure=true")


def test_json_does_not_wait() -> None:
    for flag in ("--json", "--no-wait"):
        assert read_arguments(["submit", "prune", flag]).words == ('job="prune"', "wait=false")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fetch", "a", "b", "c"], r"^'c' has no place in gfs fetch"),
        (["submit", "prune", "x"], r"^'x' has no place in gfs submit"),
        (["prune", "--insecure"], r"^--insecure: accepted by gfs submit, list, .* only$"),
        (["status", "x", "-f"], r"^--follow: accepted by gfs logs only$"),
        (["list", "--config", "x"], r"^--config: accepted alone"),
        (["cut", "run", "--config", "x"], r"^--config: accepted alone, .* but for model.factory="),
        (["prune", "--config", "x", "steps=3"], r"^--config: accepted alone"),
    ],
)
def test_options_of_other_commands_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_arguments(argv)
