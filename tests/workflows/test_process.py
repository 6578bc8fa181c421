"""``device=cuda`` on a machine without a GPU is refused before anything else, by every command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gfs_dist
from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.errors import InputError
from gfs_dist.workflows.process import check_device

DEEP = ["model=resnet20_cifar", "data=digits"]


@pytest.fixture(autouse=True)
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Path("net.safetensors").touch()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    "words",
    [
        *(["prune"], ["prune", "runtime=local"], ["prune", "runtime=none"]),
        ["prune", *DEEP, "checkpoint=net.safetensors"],
        *(["pretrain"], ["pretrain", *DEEP], ["pretrain", *DEEP, "runtime=ray"]),
        ["finetune", "net.safetensors", *DEEP, "runtime=ray"],
        ["evaluate", "net.safetensors", *DEEP],
        ["benchmark", "suite=appendix_d", "preset=smoke"],
        ["benchmark", "suite=appendix_d", "preset=cluster"],
        ["benchmark", "suite=scaling", "preset=smoke", "runtime=ray"],
    ],
)
def test_a_gpu_that_is_not_there_is_refused(
    words: list[str], dry: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if words[0] == "evaluate" else ["out=run"]
    assert main([*words, *out, *dry, "device=cuda"]) == 2
    said = "gfs: device: found cuda, accepted here auto, cpu (torch sees no GPU)\n"
    assert capsys.readouterr().err == said
    assert not Path("run").exists()


def test_a_cluster_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["device=cuda", "runtime.address=head:6379"]
    check_device(compose("prune", words))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    check_device(compose("prune", words[:1]))


@pytest.mark.parametrize("where", [{}, {"workers": 2, "runtime": "local"}])
def test_python_refuses_it_too(where: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"device: found 'cuda', but .* no GPU"):
        gfs_dist.select(torch.ones(4, 3), torch.ones(4), steps=1, device="cuda", **where)
