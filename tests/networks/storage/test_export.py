from __future__ import annotations

import importlib.util
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.errors import ConfigError, RunError
from gfs_dist.networks.storage.export import TOLERANCE, export_onnx, export_program
from tests.networks import nets

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def run_onnx(path: Path, x: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [torch.from_numpy(y) for y in found]


def loaded(folder: Path, name: str) -> tuple[nn.Module, Tensor]:
    make, shape = nets.TRACED[name]
    x = torch.randn(2, *shape)
    networks.save(folder / "m", nets.shaken(make()), example=x)
    return networks.load(folder / "m"), x


@pytest.mark.parametrize("name", [name for name in nets.TRACED if name != "shared"])
def test_programs_compute_the_same_for_any_number_of_rows(tmp_path: Path, name: str) -> None:
    network, x = loaded(tmp_path, name)
    assert export_program(network, x[:1], tmp_path / "net.pt2") <= TOLERANCE
    found = torch.export.load(tmp_path / "net.pt2").module()
    for rows in (1, 2, 7):
        y = torch.randn(rows, *x.shape[1:])
        torch.testing.assert_close(found(y), network(y))


@pytest.mark.parametrize("name", ["padded", pytest.param("unet", marks=pytest.mark.slow)])
def test_onnx_computes_the_same_for_any_number_of_rows(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    network, x = loaded(tmp_path, name)
    assert export_onnx(network, x[:1], tmp_path / "net.onnx") <= TOLERANCE
    assert capfd.readouterr() == ("", "")
    for rows in (1, 2, 7):
        y = torch.randn(rows, *x.shape[1:])
        wanted = network(y)
        wanted = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
        torch.testing.assert_close(run_onnx(tmp_path / "net.onnx", y), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_network_of_the_catalog_is_exported(tmp_path: Path) -> None:
    network = nets.shaken(networks.make("resnet20_cifar", 10)).double().train()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    export_onnx(network, x, tmp_path / "net.onnx")
    (found,) = run_onnx(tmp_path / "net.onnx", x.float())
    wanted = network.eval()(x)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_no_pickle_is_written(tmp_path: Path) -> None:
    network, x = loaded(tmp_path, "padded")
    export_program(network, x, tmp_path / "net.pt2")
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith("model.json") for name in contents)
    assert not [
        n for n, c in contents.items() if n.endswith(".pkl") or c[:2] in (b"PK", b"\x80\x02")
    ]


def test_neither_network_nor_filters_are_changed(tmp_path: Path) -> None:
    network, x = loaded(tmp_path, "padded")
    network.train()
    filters = list(warnings.filters)
    export_program(network, x, tmp_path / "net.pt2")
    assert network.training
    assert warnings.filters == filters


def test_several_inputs_are_exported(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x + y, x @ y.T

    x, y = torch.randn(3, 4), torch.randn(3, 4)
    export_onnx(Two(), (x, y), tmp_path / "net.onnx")
    export_program(Two(), (x, y), tmp_path / "net.pt2")
    assert torch.equal(torch.export.load(tmp_path / "net.pt2").module()(x, y)[0], x + y)


def test_what_cannot_be_exported_is_told_in_a_line(tmp_path: Path) -> None:
    x, kept_by_torch = torch.randn(3, 12), nets.Shared()  # it has a layer called code
    for export, network in ((export_onnx, nets.OneWay()), (export_program, kept_by_torch)):
        with pytest.raises(RunError, match="torch.export: the network cannot be exp") as told:
            export(network, x, tmp_path / "net")
        assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_export_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(onnxruntime.InferenceSession):
        more = 0.0

        def run(self, names: Any, given: Any) -> Any:
            return [y * (1 + self.more) for y in super().run(names, given)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Other)
    for value, found in ((0.001, "1.0e-03"), (torch.nan, "nan")):
        monkeypatch.setattr(Other, "more", value)
        with pytest.raises(RunError, match=f"ONNX: outputs differ by {found} of the largest, acc"):
            export_onnx(nets.mlp(), torch.randn(2, 12), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    with pytest.raises(
        ConfigError, match=r"onnxruntime not installed: pip install 'gfs-dist\[onnx\]'"
    ):
        export_onnx(nets.mlp(), torch.randn(2, 12), tmp_path / "net.onnx")
