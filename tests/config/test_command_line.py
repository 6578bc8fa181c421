from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from gfs_dist.config.command_line import (
    cut_words,
    data_words,
    model_words,
    place_words,
    resume_word,
)
from gfs_dist.config.compose import compose


@pytest.mark.parametrize(
    "words",
    [
        "data=digits",
        "data=digits data.samples=100 data.seed=4",
        "data=mnist 'data.root=/some where'",
        "data=cifar10 data.root=/data",
        "data=cifar10 data.root=/data data.mean=[0.4914,0.4822,1e-05]",
        "data=imagefolder data.root=/data data.resize=256",
        "data=cifar10 data.root=/data data.mean=null",
        "data=npz data.path=/data/x.npz data.std=[0.5]",
        "model=two_layer model.width=7 model.activation=relu",
        "model=resnet20_cifar",
        "model=custom model.factory=nets:make",
        "model=custom model.factory=nets:make 'model.kwargs={a:1,b:[x,\"y z\"],c:{d:null,e:true}}'",
    ],
)
def test_the_words_name_the_same_thing_once_more(words: str) -> None:
    group = words.partition("=")[0]
    given = compose("evaluate", ["path=x", "seed=3", *shlex.split(words)])
    again = data_words(given.data, 3) if group == "data" else model_words(given.model)
    assert getattr(
        compose("evaluate", ["path=x", "seed=3", *shlex.split(again)]), group
    ) == getattr(given, group)
    assert len(shlex.split(again)) == len(shlex.split(words))


def test_what_a_file_may_not_name_alone_is_named_again(tmp_path: Path) -> None:
    own = ["model=custom", "model.factory=nets:make"]
    words = ["checkpoint=net.pt", *own, "runtime.address=head:6379"]
    config = compose("prune", words)
    assert resume_word("a b", config) == (
        "'resume=\"a b\"' model.factory=nets:make runtime.address=head:6379"
    )
    assert cut_words("a b", config) == "'a b' factory=nets:make"
    plain = compose("prune", ["checkpoint=net.pt", "model=resnet20_cifar", "runtime.address=auto"])
    assert (resume_word("run", plain), cut_words("run", plain)) == ("resume=run", "run")
    made = {"format": 1, "model": "custom", "factory": "nets:make", "kwargs": {}}
    for facts, named in ((made, f" {' '.join(own)}"), ({**made, "graph": {}}, "")):
        (tmp_path / "architecture.json").write_text(json.dumps(facts))
        assert place_words(tmp_path, config.model) == f"{tmp_path}{named}"
        assert place_words(tmp_path, plain.model) == str(tmp_path)
