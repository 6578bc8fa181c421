"""Keys of gfs prune that belong to one kind of network, and what null means for each."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from gfs_dist.config.commands import Prune
from gfs_dist.config.compose import compose, to_yaml
from gfs_dist.errors import ConfigError
from gfs_dist.pruning.widths.budget import Budget

DEEP = ["model=resnet20_cifar", "data=cifar10", "data.root=/data", "checkpoint=net.safetensors"]


def deep(*words: str) -> Prune:
    config = compose("prune", [*DEEP, *words])
    assert isinstance(config, Prune)
    return config


def test_null_means_what_fits_two_layers() -> None:
    config = compose("prune")
    assert (config.objective, config.replacement, config.steps) == ("squared", True, 200)
    assert set(vars(config.budget).values()) == set(vars(config.repair).values()) == {None}
    assert compose("prune", ["objective=least_squares"]).replacement is False
    assert compose("prune", ["distinct=9"]).steps is None


def test_null_means_what_fits_deep_networks() -> None:
    config = deep()
    assert (config.objective, config.replacement, config.steps) == ("least_squares", False, None)
    assert config.budget.limit == Budget({"macs": Fraction(1, 2)})
    done = {name for name, wanted in vars(config.repair).items() if wanted}
    assert done == {"fold", "refit", "reselect"}
    assert [name for name, found in vars(config.repair).items() if found is None] == ["steps"]
    assert deep("repair.refit=false").repair.batch_norm is True
    assert deep("repair.refit=false").repair.reselect is False
    assert deep("objective=layer_output").repair.reselect is False
    assert deep("repair.streams=true").repair.steps == 200
    assert deep("repair.streams=true", "repair.refit=false").repair.batch_norm is False
    assert config.calibration.samples == 1024


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["budget.macs=35.7%"], Budget({"macs": Fraction("0.357")})),
        (["budget.params=0.5", "budget.round_to=8"], Budget({"params": Fraction(1, 2)}, {}, 8)),
        (["budget.latency=60%"], Budget({"latency": Fraction(3, 5)})),
        (["budget.latency=0.6", "budget.batch=32"], Budget({"latency": Fraction(3, 5)}, batch=32)),
        (
            ["budget.macs=0.5", "budget.params=60%", "budget.uniform=true"],
            Budget({"macs": Fraction(1, 2), "params": Fraction(3, 5)}, uniform=True),
        ),
        (["budget.uniform=true"], Budget({"macs": Fraction(1, 2)}, uniform=True)),
        (["budget.keep=1"], Budget({"keep": Fraction(1)})),
        (["budget.tolerance=0.02"], Budget({"tolerance": Fraction(1, 50)})),
    ],
)
def test_budgets_are_set_by_words(words: list[str], expected: Budget) -> None:
    assert deep(*words).budget.limit == expected


def test_widths_are_a_file(tmp_path: Path) -> None:
    (tmp_path / "widths.json").write_text('{"layer1.0.conv1": 8}', encoding="utf-8")
    config = deep(f"budget.widths={tmp_path / 'widths.json'}")
    assert config.budget.limit.widths == {"layer1.0.conv1": 8}


def test_what_a_deep_network_is_trained_on_by_may_be_said() -> None:
    config = deep("repair.finetune=true", "train.lr=0.02")
    assert (config.train.method, config.train.lr) == ("sgd", 0.02)
    with pytest.raises(ConfigError, match=r"^train\.lr: found with checkpoint=net\.safetensors, "):
        deep("train.lr=0.02")


def test_values_that_null_stood_for_are_recorded(tmp_path: Path) -> None:
    config = deep("budget.keep=50%", "repair.refit=false")
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    again = compose("prune", [f"resume={tmp_path}"])
    again.resume = None
    assert again == config
    with pytest.raises(
        ConfigError, match=r"^budget\.keep: found 0\.6, the run folder has 50%; only"
    ):
        compose("prune", [f"resume={tmp_path}", "budget.keep=0.6"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("budget.macs=0.5", r"^budget\.macs: found 0\.5 with model=two_layer, accepted with deep"),
        ("budget.macs=5", r"^budget\.macs: found 5 with model=two_layer, accepted with deep net"),
        (
            "repair.fold=false",
            r"^repair\.fold: found false with model=two_layer, accepted with deep",
        ),
        (
            "repair.streams=true",
            r"^repair\.streams: found true with model=two_layer, accepted with",
        ),
        ("repair.steps=9", r"^repair\.steps: found 9 with model=two_layer, accepted with deep"),
        ("calibration.samples=9", r"^calibration\.samples: found 9 with model=two_layer"),
        ("coupled=true", r"^coupled: found true with model=two_layer, accepted with deep networks"),
        (
            "objective=fisher",
            r"^objective: found 'fisher', accepted squared, bce, least_squares with model=two_l",
        ),
    ],
)
def test_keys_of_deep_networks_are_refused_with_two_layers(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("prune", words.split(" "))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "distinct=9",
            r"^distinct: found 9 with model=resnet20_cifar, accepted with model=two_layer",
        ),
        (
            "tolerance=0.1",
            r"^tolerance: found 0\.1 with model=resnet20_cifar, accepted with model=t",
        ),
        ("method=lazy", r"^method: found lazy with model=resnet20_cifar, accepted with model=t"),
        ("verify=true", r"^verify: found true with model=resnet20_cifar"),
        (
            "objective=squared",
            r"^objective: found 'squared', accepted least_squares, layer_output, fisher, "
            r"network_loss with model=resnet20_cifar$",
        ),
        ("weights=line_search", r"^weights: found 'line_search', accepted uniform with objective="),
        ("replacement=true", r"^replacement: found true, accepted false with objective=least_sq"),
        (
            "checkpoint=null",
            r"^checkpoint: has no default with model=resnet20_cifar, accepted a pre",
        ),
        ("budget.macs=0", r"^budget\.macs: found 0, accepted a share above 0 and at most 1"),
        ("budget.macs=150%", r"^budget\.macs: found 150%, accepted a share above 0 and at most 1"),
        (
            "budget.macs=0.5 budget.keep=1",
            r"^budget: found budget\.macs and budget\.keep, accepted",
        ),
        ("budget.macs=0.5 budget.batch=8", r"^budget\.batch: found with budget\.macs, accepted"),
        ("budget.round_to=0", r"^budget\.round_to: found 0, accepted a whole number, 1 or more"),
        ("budget.widths=/nope", r"^budget\.widths: found /nope, accepted layers and widths, or a"),
        ("calibration.samples=0", r"^calibration\.samples: found 0, accepted a whole number"),
        ("repair.steps=9", r"^repair\.steps: found 9, accepted with repair\.streams=true only$"),
        ("repair.steps=0", r"^repair\.steps: found 0, accepted a whole number, 1 or more"),
        ("repair.refit=3", r"^repair\.refit: found 3, accepted true or false, or null$"),
        (
            "repair.reselect=true objective=fisher",
            r"^repair\.reselect: found true, accepted with objective=least_squares and repair\.r",
        ),
        (
            "repair.reselect=true repair.refit=false",
            r"^repair\.reselect: found true, accepted with",
        ),
        ("budget.mac=0.5", r"^budget\.mac: unknown key of gfs prune; did you mean budget\.macs\?$"),
        ("macs=0.5", r"^macs: unknown key of gfs prune; did you mean budget\.macs\?$"),
        ("budget=0.5", r"^budget: unknown key of gfs prune"),
    ],
)
def test_what_does_not_go_with_a_deep_network_is_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        deep(*words.split(" "))
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1
