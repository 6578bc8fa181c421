"""conf/ and the schema say the same, and every key says what it means."""

from __future__ import annotations

import typing

import pytest
from omegaconf import OmegaConf

from gfs_dist import networks
from gfs_dist.cli.arguments import COMMANDS as SHELL_COMMANDS
from gfs_dist.cli.arguments import POSITIONAL
from gfs_dist.cli.help import describe
from gfs_dist.config import CONF_FOLDER, paths
from gfs_dist.config.commands import COMMANDS
from gfs_dist.config.groups import CATALOG, CHANGEABLE, GROUPS, OPTION_KEY, TwoLayer
from gfs_dist.config.prune import METHODS
from gfs_dist.config.schema import annotations_of, choices
from gfs_dist.data import spec as data_spec
from gfs_dist.networks.models import two_layer
from gfs_dist.pruning.repair import fit_rule
from gfs_dist.runtime import graph
from gfs_dist.runtime import spec as runtime_spec
from gfs_dist.selection import partition
from gfs_dist.selection.objectives import factory
from gfs_dist.training import spec as training_spec

OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]


def test_shell_and_schema_have_the_same_commands() -> None:
    assert list(SHELL_COMMANDS) == list(COMMANDS)
    for command, keys in POSITIONAL.items():
        assert set(keys) <= set(typing.get_type_hints(COMMANDS[command]))


@pytest.mark.parametrize("command", COMMANDS)
def test_keys_of_a_command_are_those_of_its_schema(command: str) -> None:
    about, hints = describe(command), typing.get_type_hints(COMMANDS[command])
    named = [*about.keys, *about.groups, *about.sections]
    assert sorted(part.name for part in named) == sorted(hints)
    for section in about.sections:
        keys = [f"{section.name}.{key}" for key in typing.get_type_hints(hints[section.name])]
        assert sorted(key.name for key in section.keys) == sorted(keys)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_keys_of_an_option_are_those_of_its_schema(group: str, option: str) -> None:
    file = OmegaConf.load(CONF_FOLDER / group / f"{option}.yaml")
    assert sorted(map(str, file)) == sorted(typing.get_type_hints(GROUPS[group][option]))
    assert file[OPTION_KEY[group]] == option


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_of_a_group_has_a_schema(group: str) -> None:
    assert {file.stem for file in (CONF_FOLDER / group).glob("*.yaml")} == set(GROUPS[group])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_has_a_line_of_help(command: str) -> None:
    about = describe(command)
    assert about.help
    for section in about.sections:
        assert section.help, f"{command}.yaml: {section.name} has no comment above it"
    for key in [*about.keys, *(key for section in about.sections for key in section.keys)]:
        assert key.help, f"{command}.yaml: {key.name} has no comment above it"
    for group in about.groups:
        assert group.help, f"{command}.yaml: {group.name} has no comment above it"
        assert group.default in group.options
        for keys in group.options.values():
            for key in keys:
                assert key.help, f"{key.name} has no comment above it"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_word_to_choose_from_stands_in_the_help(command: str) -> None:
    for key in describe(command).keys:
        for word in choices(annotations_of(COMMANDS[command])[key.name]):
            assert word in key.help, (
                f"{command}.yaml: {key.name} accepts {word} and does not say so"
            )


def test_the_networks_that_can_be_named_are_those_that_can_be_made() -> None:
    assert list(networks.CATALOG) == list(CATALOG)


def test_words_written_out_are_those_that_there_are() -> None:
    prune, pretrain = annotations_of(COMMANDS["prune"]), annotations_of(COMMANDS["pretrain"])
    assert choices(annotations_of(TwoLayer)["activation"]) == tuple(two_layer.ACTIVATIONS)
    assert choices(prune["target"]) == (fit_rule.AUTO, *fit_rule.TARGETS)
    assert choices(prune["device"]) == runtime_spec.DEVICES
    assert choices(pretrain["objective"]) == data_spec.TARGETS
    assert tuple(GROUPS["runtime"]) == runtime_spec.KINDS
    assert tuple(GROUPS["train"]) == training_spec.METHODS
    assert METHODS["squared"] == ("auto", *factory.METHODS, "exhaustive")
    assert paths.WORDS["partition"] == partition.KINDS
    assert paths.WORDS["graph"] == ("none", *graph.NAMES)


def test_changeable_keys_exist() -> None:
    assert set(CHANGEABLE) <= set(typing.get_type_hints(COMMANDS["prune"]))
