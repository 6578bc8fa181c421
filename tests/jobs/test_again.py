from __future__ import annotations

import shlex

import pytest

from gfs_dist.jobs.again import data_words, model_words
from gfs_dist.jobs.compose import compose


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
