from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gfs_dist.command_words import assigned
from gfs_dist.config.commands import COMMANDS, Prune
from gfs_dist.config.compose import compose, compose_file, sweep, to_yaml
from gfs_dist.config.groups import Custom, Mnist, Npz, RayRuntime, Sgd
from gfs_dist.errors import ConfigError

NEEDED = {
    "advise": ["path=x"],
    "cut": ["path=x", "budget.macs=35%"],
    "evaluate": ["path=x"],
    "finetune": ["path=x"],
    "report": ["path=x"],
    "reproduce": ["experiment=figure1"],
    "submit": ["job=prune"],
    **{command: ["id=x"] for command in ("status", "logs", "stop", "fetch")},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_compose(command: str) -> None:
    assert type(compose(command, NEEDED.get(command, []))) is COMMANDS[command]


def test_defaults_are_the_run_with_no_arguments() -> None:
    config = compose("prune")
    assert isinstance(config.runtime, RayRuntime)
    assert config.data.name == "digits"
    assert (config.model.name, config.model.width) == ("two_layer", 1000)
    assert (config.workers, config.steps, config.objective) == (2, 200, "squared")
    assert config.train.iterations // config.train.checkpoint_every + 1 == 5
    assert config.out.startswith("runs/")
    assert config.out.endswith("_prune")


def test_values_and_groups_are_set() -> None:
    words = ["data=mnist", "data.root=/data", "train=sgd", "train.batch=7", "distinct=3", "seed=5"]
    config = compose("prune", words)
    assert isinstance(config.data, Mnist)
    assert isinstance(config.train, Sgd)
    assert (config.data.root, config.train.batch, config.distinct) == ("/data", 7, 3)
    assert config.data.seed == 5, "the seed of the data follows the seed of the run"


def test_a_list_of_numbers_is_set_and_null() -> None:
    config = compose("prune", ["data=npz", "data.path=x.npz", "data.mean=[1,0.5]"])
    assert isinstance(config.data, Npz)
    assert (config.data.mean, config.data.std) == ([1.0, 0.5], None)
    assert compose("prune", ["data=npz", "data.path=x", "data.mean=null"]).data.mean is None


@pytest.mark.parametrize(
    "words",
    [
        ["model.kwargs={width:3,names:[a,b],deep:{er:true}}"],
        ["model.kwargs.width=3", "+model.kwargs.names=[a,b]", "model.kwargs.deep.er=true"],
        [
            "model.kwargs={width:2}",
            "model.kwargs={width:3,names:[a,b]}",
            "model.kwargs.deep={er:true}",
        ],
    ],
)
def test_arguments_of_a_factory_are_whatever_the_user_says(words: list[str]) -> None:
    config = compose("evaluate", ["path=x", "model=custom", "model.factory=nets:make", *words])
    assert isinstance(config.model, Custom)
    assert config.model.kwargs == {"width": 3, "names": ["a", "b"], "deep": {"er": True}}
    assert "er: true" in to_yaml(config)


def test_last_word_of_a_key_counts() -> None:
    assert compose("prune", ["steps=3", "steps=4"]).steps == 4


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("out=001", "001"),
        ('out="a=b, c"', "a=b, c"),
        ("out=/tmp/x.y", "/tmp/x.y"),
        ("out=${oc.env:HOMELESS,there}/x", "there/x"),
    ],
)
def test_text_stays_text(word: str, value: str) -> None:
    assert compose("prune", [word]).out == value


def test_a_folder_may_be_named_by_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(compose("prune", [f"out={tmp_path}"])))
    monkeypatch.setenv("RUN", str(tmp_path))
    assert compose("prune", ["resume=${oc.env:RUN}"]).resume == str(tmp_path)


@pytest.mark.parametrize("out", ["a" * 300, "''"])
def test_a_path_in_a_composed_file_is_checked_too(tmp_path: Path, out: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(to_yaml(compose("prune", ["out=HERE"])).replace("HERE", out))
    with pytest.raises(ConfigError, match=r"^out: found "):
        compose_file("prune", file)


def test_this_process_is_one_rank() -> None:
    assert compose("prune", ["runtime=none"]).workers == 1
    assert compose("prune", ["runtime=none", "workers=1"]).workers == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # unknown keys, with the nearest valid name
        ("stesp=3", r"^stesp: unknown key of gfs prune; did you mean steps\?$"),
        ("modle.width=3", r"^modle\.width: unknown key of gfs prune; did you mean model\.width\?$"),
        ("width=3", r"^width: .*did you mean model\.width\?$"),
        ("zzzqq=3", r"^zzzqq: unknown key of gfs prune; gfs prune --help lists the keys$"),
        ("hydra.run.dir=x", r"^hydra\.run\.dir: unknown key"),
        ("data.features=3", r"^data\.features: not a key of data=digits, it belongs to data=synth"),
        ("runtime=none runtime.address=x", r"^runtime\.address: .*belongs to runtime=ray$"),
        # wrong types: key, found, accepted
        ("steps=abc", r"^steps: found 'abc', accepted a whole number, 1 or more, or null$"),
        ("steps=1.5", r"^steps: found 1\.5, accepted a whole number, 1 or more, or null$"),
        ("steps=1e3", r"^steps: found 1000\.0, accepted a whole number, 1 or more, or null$"),
        ("steps=true", r"^steps: found true, accepted a whole number, 1 or more, or null$"),
        ("workers=null", r"^workers: found null, accepted a whole number, 1 or more$"),
        ("steps=[1]", r"^steps: found \[1\], accepted a whole number"),
        ("steps=", r"^steps: found '', accepted a whole number"),
        ("tolerance=x", r"^tolerance: found 'x', accepted a number, 0 or more, or null$"),
        ("verify=1", r"^verify: found 1, accepted true or false$"),
        ("weights=null", r"^weights: found null, accepted uniform, line_search$"),
        # ranges
        ("steps=0", r"^steps: found 0, accepted a whole number, 1 or more, or null$"),
        ("workers=0", r"^workers: found 0, accepted a whole number, 1 or more$"),
        ("distinct=0", r"^distinct: found 0, accepted a whole number, 1 or more, or null$"),
        ("tolerance=-1", r"^tolerance: found -1, accepted a number, 0 or more, or null$"),
        ("tolerance=nan", r"^tolerance: found nan, accepted a number, 0 or more, or null$"),
        ("train.lr=0", r"^train\.lr: found 0, accepted a number, above 0, or null$"),
        ("train.lr=inf", r"^train\.lr: found inf, accepted a number, above 0, or null$"),
        ("train=sgd train.momentum=1", r"^train\.momentum: found 1, .*0 or more, below 1$"),
        ("model.width=0", r"^model\.width: found 0, accepted a whole number, 1 or more$"),
        (
            "model=resnet8_cifar model.width=0",
            r"^model\.width: found 0, accepted a number, above 0",
        ),
        ("model=custom model.width=1", r"^model\.width: not a key of model=custom, it belongs to"),
        ("seed=-1", r"^seed: found -1, accepted a whole number, 0 or more, below \d+$"),
        # words to choose from
        ("objective=sqared", r"^objective: found 'sqared', accepted squared, .*; did you mean sq"),
        ("data=mnits", r"^data: found mnits, accepted cifar10, digits, .*; did you mean mnist\?$"),
        ("data={a:1}", r"^data: found \{a:1\}, accepted cifar10, digits, .*, text$"),
        (
            "model=resnet43",
            r"^model: found resnet43, accepted custom, .*; did you mean resnet34\?$",
        ),
        # the beginning of a name counts as the name
        ("model=resnt20", r"; did you mean resnet20_cifar\?$"),
        ("model=ResNet20", r"; did you mean resnet20_cifar\?$"),
        ("model=resnet56", r"; did you mean resnet56_cifar\?$"),
        ("model=resnt50", r"; did you mean resnet50\?$"),
        ("model=resnet50_cfar", r"; did you mean resnet50_cifar\?$"),
        ("model=mobilenet", r"; did you mean mobilenet_v2\?$"),
        ("model.activation=tahn", r"^model.activation: found 'tahn', .*; did you mean tanh\?$"),
        ("train.checkpoint=3", r"; did you mean train.checkpoint_every\?$"),
        ("batchnorm=true", r"; did you mean repair.batch_norm\?$"),
        (
            "model.factory=a:b",
            r"^model.factory: not a key of model=two_layer, it belongs to model=c",
        ),
        ("model=custom", r"^model.factory: has no default and was not given"),
        # lists, and names and values of the user's own
        ("data=npz data.path=x data.mean=1", r"^data.mean: found 1, accepted numbers in brackets"),
        ("data=npz data.path=x data.mean=[a]", r"^data.mean: found \['a'\], accepted numbers in"),
        ("data=npz data.path=x data.mean.a=1", r"^data.mean.a: unknown key of gfs prune"),
        (
            "model=custom model.factory=a:b model.kwargs=[3]",
            r"^model.kwargs: found \[3\], accepted names and values in braces$",
        ),
        ("objective=bce method=panel", r"^method: found 'panel', accepted auto, screened, exhaus"),
        (
            "method=screened",
            r"^method: found 'screened', accepted auto, panel, .* objective=squared",
        ),
        ("runtime=none workers=2", r"^workers: found 2, accepted 1 with runtime=none$"),
        ("data.name=mnist", r"^data\.name: chosen by the group, write data=mnist$"),
        (
            "checkpoint=x model=two_layer train.lr=3",
            r"^train\.lr: found with checkpoint=x, accepted only where",
        ),
        (
            "checkpoint=x model=two_layer train=sgd",
            r"^train: found with checkpoint=x, accepted only where",
        ),
        # additions and removals
        ("+steps=3", r"^\+steps=3: steps is a known key, write it without '\+'$"),
        ("++steps=3", r"^\+\+steps=3: steps is a known key, write it without '\+'$"),
        ("+data=mnist", r"^\+data=mnist: data is a known key, write it without '\+'$"),
        ("+zzzqq=3", r"^zzzqq: unknown key"),
        ("+data.zzzqq=3", r"^data\.zzzqq: unknown key"),
        ("~steps", r"^~steps: a key cannot be removed, accepted key=value$"),
        ("~data=digits", r"^~data=digits: a key cannot be removed"),
        # syntax
        ("=3", r"^'=3': accepted key=value$"),
        ("steps", r"^'steps': accepted key=value$"),
        (
            "out=a=b",
            r"^out=a=b: the value cannot be read; accepted a plain value, or one in double",
        ),
        ("data@x=mnist", r"^data@x=mnist: '@' is not accepted in a key"),
        ("steps=1,2", r"^steps: found several values \(1,2\), accepted one without --multirun$"),
        # values that are not there
        (
            "data=mnist",
            r"^data\.root: has no default and was not given, accepted data\.root=VALUE$",
        ),
        ("out=${nope}", r"Interpolation key 'nope' not found"),
        ("seed=${out}", r"^seed: found 'runs/.*', accepted a whole number"),
        *(
            (f"{key}=", rf"^{key}: found '', accepted a path \(it is empty\)$")
            for key in ("out", "resume", "checkpoint", "partition", "graph", "budget.widths")
        ),
        ("data=npz data.path=", r"^data\.path: found '', accepted a path \(it is empty\)$"),
        ('out=""', r"^out: found '', accepted a path"),
        ("model=custom model.factory=", r"^model.factory: found '', accepted text that is not em"),
        *(
            (f"{key}={folder}{'a' * 256}", rf"^{key}: found .* accepted a path \(.*longer than 255")
            for key in ("out", "resume", "checkpoint", "partition")
            for folder in ("", "not/there/", "/proc/")
        ),
        (f"out={'a/' * 2100}", r"^out: found .*, accepted a path \(File name too long\)$"),
        ("resume=/nope", r"^resume: found /nope, accepted a run folder \(with config\.yaml\)$"),
    ],
)
def test_bad_words_are_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose("prune", words.split(" "))
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1


def test_group_of_another_command_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^runtime: gfs evaluate takes no runtime$"):
        compose("evaluate", ["runtime=ray"])


def test_text_of_a_configuration_gives_it_again(tmp_path: Path) -> None:
    config = compose("prune", ["data=synthetic", "data.features=3", "runtime=local", "steps=7"])
    text = to_yaml(config)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    again = compose("prune", [f"resume={tmp_path}"])
    again.resume = None
    assert again == config
    assert "${" not in text


class TestConfigDir:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "mine.yaml").write_text(
            "# @package _global_\ndefaults:\n  - override /train: sgd\nsteps: 11\n"
            "train:\n  batch: 9\n"
        )
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "few.yaml").write_text(
            "defaults: [digits]\nsamples: 20\n", encoding="utf-8"
        )
        return tmp_path

    def test_own_experiment_is_laid_over_ours(self, folder: Path) -> None:
        config = compose("prune", ["+experiment=mine", "train.batch=8"], folder)
        assert isinstance(config.train, Sgd)
        assert (config.steps, config.train.batch) == (11, 8)

    def test_own_option_stands_beside_ours(self, folder: Path) -> None:
        assert compose("prune", ["data=few"], folder).data.samples == 20

    def test_own_group_is_added_with_a_plus(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"add it as \+experiment"):
            compose("prune", ["experiment=mine"], folder)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("zzz: 3\n", "^zzz: unknown key of gfs prune"),
            ("steps: many\n", "^steps: found 'many', accepted a whole number, 1 or more, or null$"),
            ("steps: 0\n", "steps: found 0, accepted a whole number, 1 or more, or null$"),
            ("data:\n  name: nope\n", r"^data\.name: found 'nope', accepted digits"),
            ("a: [\n", "while parsing"),
        ],
    )
    def test_own_file_is_checked_too(self, folder: Path, text: str, message: str) -> None:
        file = folder / "experiment" / "bad.yaml"
        file.write_text(f"# @package _global_\n{text}", encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            compose("prune", ["+experiment=bad"], folder)

    def test_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"--config-dir: found .*nope, accepted a folder"):
            compose("prune", [], tmp_path / "nope")


class TestResume:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        config = compose("prune", ["steps=7", "data.samples=50", "train=sgd", "workers=3"])
        (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        return tmp_path

    def test_everything_is_taken_from_the_run_folder(self, folder: Path) -> None:
        config = compose("prune", [f"resume={folder}"])
        assert isinstance(config, Prune)
        assert isinstance(config.train, Sgd)
        assert (config.steps, config.data.samples, config.workers) == (7, 50, 3)
        assert config.resume == str(folder)

    def test_workers_runtime_device_threads_may_change(self, folder: Path) -> None:
        words = ["workers=1", "runtime=local", "runtime.spares=1", "device=cpu", "threads=1"]
        config = compose("prune", [f"resume={folder}", *words])
        assert (config.workers, config.runtime.kind, config.runtime.spares) == (1, "local", 1)
        assert compose("prune", [f"resume={folder}", "runtime=none"]).workers == 1

    def test_the_same_value_may_be_repeated(self, folder: Path) -> None:
        assert compose("prune", [f"resume={folder}", "steps=7", "train=sgd"]).steps == 7

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("steps=8", "steps: found 8, the run folder has 7; only workers, runtime, device, thr"),
            ("data.samples=51", r"data\.samples: found 51, the run folder has 50; only workers"),
            ("distinct=3", "distinct: found 3, the run folder has null; only workers"),
            ("train=gd", "train: found gd, the run folder has sgd; only workers"),
            ("out=elsewhere", "out: found elsewhere, the run folder has runs/"),
        ],
    )
    def test_nothing_else_may(self, folder: Path, word: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            compose("prune", [f"resume={folder}", word])

    def test_run_folder_of_another_command_is_refused(self, folder: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"config\.yaml is not a configuration of gfs pretrain"
        ):
            compose("pretrain", [f"resume={folder}"])

    @pytest.mark.parametrize("text", ["a: [", "3", "", "\x00", "data: 3\n"])
    def test_broken_configuration_is_refused(self, folder: Path, text: str) -> None:
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"^resume: .*config\.yaml"):
            compose("prune", [f"resume={folder}"])

    def test_group_without_its_option_is_refused(self, folder: Path) -> None:
        stored = OmegaConf.load(folder / "config.yaml")
        stored.data = {"samples": 3}
        OmegaConf.save(stored, folder / "config.yaml")
        with pytest.raises(ConfigError, match=r"config\.yaml is not a configuration of gfs prune"):
            compose("prune", [f"resume={folder}"])


class TestSweep:
    def test_every_combination_is_a_run(self) -> None:
        configs = sweep("prune", ["steps=1,2", "weights=uniform,line_search", "out=there"])
        assert [(c.steps, c.weights) for c in configs] == [
            (1, "uniform"),
            (1, "line_search"),
            (2, "uniform"),
            (2, "line_search"),
        ]
        assert [c.out for c in configs] == ["there/0", "there/1", "there/2", "there/3"]

    def test_groups_and_quoted_values_can_be_swept(self) -> None:
        configs = sweep("prune", ["train=gd,sgd", "partition='a,b','c'"])
        assert [c.partition for c in configs] == ["a,b", "c", "a,b", "c"]
        assert [c.train.method for c in configs] == ["gd", "gd", "sgd", "sgd"]

    def test_ranges_are_written_out(self) -> None:
        with pytest.raises(ConfigError, match=r"accepted the values one by one, as in key=1,2,3"):
            sweep("prune", ["steps=range(1,3)"])

    def test_one_bad_point_refuses_all(self) -> None:
        with pytest.raises(ConfigError, match=r"^steps: found 0"):
            sweep("prune", ["steps=1,0"])


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("prune", "checkpoint=gs://bucket/run"),
        ("pretrain", "data=npz data.path=https://host/x.npz"),
        ("cut", "path=memory://run budget.macs=50%"),
        ("doctor", "out=memory://run"),
    ],
)
def test_only_run_folders_may_be_urls(command: str, word: str) -> None:
    with pytest.raises(ConfigError, match=r"found \w+://.*, accepted a path; .*\(out=URL"):
        compose(command, word.split())


def test_where_a_fetched_folder_goes_is_a_path_or_any_url() -> None:
    assert compose("fetch", ["id=x", "into=memory://a"]).into == "memory://a"
    for into in ("", "a" * 300, "zz://a"):
        with pytest.raises(ConfigError, match=r"^into: found "):
            compose("fetch", ["id=x", f"into={into}"])


@pytest.mark.parametrize("key", ["out", "resume"])
def test_a_url_of_a_kind_that_is_not_known_here_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: found zz://a/b: Protocol not known: zz; acc"):
        compose("prune", [f"{key}=zz://a/b"])


def test_a_url_in_a_file_of_the_users_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nout: zz://bucket/run\n")
    with pytest.raises(ConfigError, match=r"out: found zz://bucket/run: Protocol not known"):
        compose("prune", ["+experiment=mine"], tmp_path)


def test_points_of_a_sweep_go_below_a_url() -> None:
    assert [config.out for config in sweep("prune", ["out=memory://a/b", "steps=1,2"])] == [
        "memory://a/b/0",
        "memory://a/b/1",
    ]


@pytest.mark.parametrize("text", ["${x}", r"\${x}", r"b\\${oc.env:HOME}", "$5"])
def test_dollars_of_a_name_are_no_lookup_where_a_run_goes_on(text: str, tmp_path: Path) -> None:
    config = compose("prune", [assigned("out", str(tmp_path / text))])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert compose_file("prune", file).out == str(tmp_path / text)
    assert compose("prune", [assigned("resume", str(tmp_path))]).out == str(tmp_path / text)
