"""Pages, plots and cards of networks that were pruned layer by layer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from gfs_dist.report import Origin, write, write_card
from gfs_dist.report.deep_plots import MOST_NAMES, error_against_width
from gfs_dist.report.facts import Run
from tests.report.pages import page, table

Report = dict[str, Any]
Paths = dict[str, dict[str, Any]]

WIDTHS = {"layer1.0.conv1": 16, "layer2.0.conv1": 32, "layer3.0.conv1": 64}
PLOTS = {"kept_width_per_layer.png", "error_against_width.png", "accuracy_against_macs.png"}


def latency(batch: int, median_s: float) -> dict[str, Any]:
    return {"batch": batch, "device": "cpu", "median_s": median_s, "min_s": 0.0, "max_s": 1.0}


def result(name: str, share: float) -> dict[str, Any]:
    kept = {layer: max(1, int(share * width)) for layer, width in WIDTHS.items()}
    layers = [
        {"name": "conv1", "channels": 16, "kept": 16, "error": None, "macs": 442_368,
         "reason": "its channels are added to those of 'layer1.0.conv2'"}
    ]  # fmt: skip
    layers += [
        {"name": layer, "channels": width, "kept": kept[layer], "error": 0.01 / kept[layer],
         "macs": 1000 * kept[layer], "reason": None}
        for layer, width in WIDTHS.items()
    ]  # fmt: skip
    return {
        "name": name, "iteration": None, "objective": "least_squares",
        "kept": sum(kept.values()), "loss": 0.4, "accuracy": 0.5 + 0.4 * share,
        "macs": int(40_000_000 * share), "params": int(270_000 * share),
        "file_bytes": int(1_080_000 * share), "latency": [latency(1, 0.002), latency(64, 0.02)],
        "accuracy_after": {
            "cut": 0.2, "refit": 0.8, "batch_norm": 0.5 + 0.4 * share, "finetune": None
        },
        "path": f"paths/{name}", "model": f"models/{name}", "picks_sha256": "ab" * 32,
        "layers": layers, "dense": {"loss": 0.26, "accuracy": 0.9173},
    }  # fmt: skip


def path(channels: int) -> dict[str, Any]:
    loss = [1.0 / k - 1.0 / channels for k in range(1, channels + 1)]
    return {
        "format": 1, "neurons": channels, "samples": 1024, "objective": "least_squares",
        "weights": "uniform", "picks": list(range(channels)), "loss": loss,
    }  # fmt: skip


def run(*shares: float) -> tuple[Report, Paths]:
    """A finished run with one result a share."""
    results = [result(f"macs_{100 * share:g}", share) for share in shares]
    report = {
        "format": 1, "job": "prune", "status": "finished",
        "dense": {
            "loss": 0.26, "accuracy": 0.9173, "macs": 40_000_000, "params": 270_000,
            "file_bytes": 1_080_000, "latency": [latency(1, 0.003), latency(64, 0.08)],
        },
        "results": results, "timing": {"total_s": 12.0, "ranks": [{"rank": 0}, {"rank": 1}]},
        "machine": {"cpu": "Some CPU", "gpus": []}, "versions": {"gfs-dist": "1.2.3"},
    }  # fmt: skip
    paths = {row["name"]: {name: path(width) for name, width in WIDTHS.items()} for row in results}
    return report, paths


def test_result_table_shows_sizes_beside_the_dense_network() -> None:
    (row,) = table(page(*run(0.5)), "Results")
    assert row == {
        "result": "macs_50", "objective": "least_squares", "channels": "56 (50.0 %)",
        "multiply-adds": "20,000,000 (50.0 %)", "parameters": "135,000 (50.0 %)", "loss": "0.4",
        "dense loss": "0.26", "accuracy": "70.00 %", "dense accuracy": "91.73 %",
        "picks (SHA-256)": "`abababababab`",
    }  # fmt: skip


def test_sentences_say_what_was_kept_and_what_each_repair_did() -> None:
    markdown = page(*run(0.5))
    assert (
        "50.0 % of the multiply-adds and 50.0 % of the parameters keep 76.3 % of the dense "
        "accuracy (70.00 % against 91.73 %)." in markdown
    )
    assert (
        "Accuracy after each stage: cut alone 20.00 %, least-squares refit 80.00 %, batch norms "
        "measured again 70.00 %." in markdown
    )
    assert "1 layer of 4 stays whole; the last table says why." in markdown
    assert "by 2 ranks, layer by layer over 1,024 images: objective `least_squares`" in markdown
    assert "neurons" not in markdown


def test_each_repair_has_a_column_if_it_was_done() -> None:
    (row,) = table(page(*run(0.5)), "Repair")
    assert row == {
        "result": "macs_50", "cut alone": "20.00 %", "least-squares refit": "80.00 %",
        "batch norms measured again": "70.00 %",
    }  # fmt: skip


def test_a_faster_network_is_told_with_its_times() -> None:
    markdown = page(*run(0.5))
    assert (
        "Faster than the dense network: 1.50 times at batch 1 on cpu (2.0 ms against 3.0 ms) and "
        "4.00 times at batch 64 on cpu (20.0 ms against 80.0 ms)." in markdown
    )
    assert "SLOWER" not in markdown
    dense, pruned = table(markdown, "Size and speed")
    assert dense == {
        "network": "dense", "multiply-adds": "40,000,000", "parameters": "270,000",
        "file": "1.0 MiB", "batch 1, cpu": "3.0 ms", "batch 64, cpu": "80.0 ms",
    }  # fmt: skip
    assert (pruned["file"], pruned["batch 1, cpu"]) == ("527.3 KiB", "2.0 ms (1.50)")


def test_a_slower_network_is_told_plainly() -> None:
    report, paths = run(0.5)
    report["results"][0]["latency"] = [latency(1, 0.0036), latency(64, 0.081)]
    markdown = page(report, paths)
    assert (
        "SLOWER than the dense network at batch 1 on cpu: 3.6 ms against 3.0 ms, 1.20 times the "
        "time, with 50.0 % of its multiply-adds." in markdown
    )
    assert "As fast as the dense network at batch 64 on cpu (81.0 ms)" in markdown
    assert "Faster" not in markdown


def test_every_layer_has_a_row_and_every_skipped_one_its_reason() -> None:
    markdown = page(*run(0.5))
    rows = table(markdown, "Layers of macs_50")
    assert [row["layer"] for row in rows] == list(WIDTHS)
    assert rows[2] == {
        "layer": "layer3.0.conv1", "channels": "64", "kept": "32 (50.0 %)", "error": "0.0003125",
        "multiply-adds": "32,000",
    }  # fmt: skip
    assert table(markdown, "Layers of macs_50", 1) == [
        {"layer that stays whole": "conv1", "channels": "16",
         "why": "its channels are added to those of 'layer1.0.conv2'"}
    ]  # fmt: skip


def test_several_results_are_told_apart_by_name() -> None:
    markdown = page(*run(0.75, 0.5))
    assert "`macs_75`: 75.0 % of the multiply-adds" in markdown
    assert "`macs_50`: 50.0 % of the multiply-adds" in markdown
    assert [row["network"] for row in table(markdown, "Size and speed")] == [
        "dense", "macs_75", "macs_50"
    ]  # fmt: skip


def test_a_run_with_few_facts_has_a_page(tmp_path: Path) -> None:
    report, paths = run(0.5)
    del report["dense"]["latency"], report["dense"]["file_bytes"], report["results"][0]["latency"]
    report["results"][0] |= {"accuracy": None, "accuracy_after": {}, "loss": None}
    write(tmp_path, report, paths)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "The pruned network has 50.0 % of the multiply-adds and 50.0 %" in markdown
    assert "## Repair" not in markdown
    assert not (tmp_path / "plots" / "accuracy_against_macs.png").exists()
    assert (tmp_path / "plots" / "error_against_width.png").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    write(folder, *run(0.75, 0.5, 0.35))
    return folder


def test_plots_are_drawn_and_stand_in_the_page(finished: Path) -> None:
    markdown = (finished / "report.md").read_text(encoding="utf-8")
    found = {file.name: file for file in (finished / "plots").iterdir()}
    assert set(found) == PLOTS
    for name, file in found.items():
        height, width = imread(file).shape[:2]
        assert 200 <= height <= 2000, name
        assert 700 <= width <= 2000, name
        assert f"](plots/{name})" in markdown
    assert (finished / "report.html").read_text(encoding="utf-8").count("data:image/png") == 3


def test_kept_share_is_drawn_as_high_as_it_is(tmp_path: Path) -> None:
    """A layer that keeps everything has no pale part."""
    blue, pale = (0, 0x72, 0xB2), (0xD9, 0xD9, 0xD9)
    ratios = []
    for share in (0.5, 1.0):
        write(tmp_path, *run(share))
        image = imread(tmp_path / "plots" / "kept_width_per_layer.png")[:, :, :3]
        pixels = np.rint(255 * image).astype(int)
        ratios.append([int((pixels == colour).all(2).sum()) for colour in (blue, pale)])
    (half_blue, half_pale), (whole_blue, whole_pale) = ratios
    assert half_blue == pytest.approx(half_pale, rel=0.2)
    assert whole_blue > 1.8 * half_blue
    assert whole_pale < 0.1 * half_pale, "the legend alone"


def test_every_chosen_width_is_marked_within_the_plot() -> None:
    """Errors too small for the axis too; of the figure, as marks cannot be told apart in pixels."""
    report, paths = run(0.5, 1.0)
    for layers in paths.values():
        layers["layer2.0.conv1"]["loss"] = [1.0] + 15 * [1e-9] + 16 * [1e-12]
    figure = error_against_width(Run.read(report, paths))
    assert figure is not None
    for panel in figure.axes:
        marks = [line.get_ydata()[0] for line in panel.lines if line.get_marker() == "o"]
        bottom, top = panel.get_ylim()
        assert len(marks) == len(WIDTHS)
        assert all(bottom <= mark <= top for mark in marks)


def test_many_layers_and_checkpoints_fit_the_plots(tmp_path: Path) -> None:
    report, paths = run(0.5)
    row = report["results"][0]
    many = [f"block{i}.conv1" for i in range(MOST_NAMES + 5)]
    layer = row["layers"][1]
    row["layers"] = [layer | {"name": name} for name in many]
    layer_paths = {name: path(16) for name in many}
    report["results"] = []
    for iteration in range(0, 12_000, 2000):
        name = f"step_{iteration}"
        report["results"].append(row | {"name": name, "iteration": iteration})
        paths[name] = layer_paths
    write(tmp_path, report, paths)
    for file in (tmp_path / "plots").iterdir():
        assert max(imread(file).shape[:2]) <= 2000, file.name
    assert "accuracy_against_pretraining.png" in {f.name for f in (tmp_path / "plots").iterdir()}


def test_dollars_in_names_are_no_formulas(tmp_path: Path) -> None:
    odd = r"b$\foo$`|"
    report, paths = run(0.5)
    [row] = report["results"]
    row["layers"][1]["name"] = row["name"] = odd
    [of_layers] = paths.values()
    of_layers[odd] = of_layers.pop("layer1.0.conv1")
    write(tmp_path, report, {odd: of_layers})
    assert {file.name for file in (tmp_path / "plots").iterdir()} >= PLOTS


def test_nothing_given_is_changed(tmp_path: Path) -> None:
    report, paths = run(0.5)
    before = copy.deepcopy((report, paths))
    write(tmp_path, report, paths)
    write_card(tmp_path, report, "macs_50", Origin("resnet20_cifar"))
    assert (report, paths) == before


def test_card_says_what_it_is_how_it_does_and_how_to_load_it(tmp_path: Path) -> None:
    report, _ = run(0.75, 0.5)
    origin = Origin(
        network="resnet20_cifar", checkpoint="resnet20.safetensors",
        data="cifar10, 1,024 calibration images", inputs="float32 (N, 3, 32, 32), normalised",
        budget="50% of the multiply-adds", method="least_squares", factory="nets:make",
    )  # fmt: skip
    write_card(tmp_path, report, "macs_50", origin)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# resnet20_cifar, pruned: macs_50\n\nA physically smaller")
    assert "by gfs-dist 1.2.3" in text
    for words in ("resnet20.safetensors", "1,024 calibration images", "50% of the multiply-adds"):
        assert words in text
    measured = {row["measured"]: row for row in table(text, "Results")}
    assert measured["accuracy on the test split"]["pruned"] == "70.00 %"
    assert measured["multiply-adds for one input"] == {
        "measured": "multiply-adds for one input", "dense": "40,000,000", "pruned": "20,000,000"
    }  # fmt: skip
    assert measured["time at batch 64 on cpu"]["dense"] == "80.0 ms"
    assert 'gfs_dist.load("PATH_OF_THIS_FOLDER", factory="nets:make")' in text
    assert "logits = model(images)  # float32 (N, 3, 32, 32), normalised" in text
    assert "was not fine-tuned" in text
    assert "Times are of one machine (Some CPU);" in text
    assert "Faster than the dense network" in text


def test_card_of_an_unknown_origin_leaves_out_what_nobody_knows(tmp_path: Path) -> None:
    report, _ = run(0.5)
    row = report["results"][0]
    del row["latency"]
    row["accuracy_after"]["finetune"] = 0.9
    write_card(tmp_path, report, "macs_50", Origin("Net"))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert 'gfs_dist.load("PATH_OF_THIS_FOLDER")' in text
    assert "budget" not in text
    assert "was not fine-tuned" not in text
    assert "Times are of" not in text


def test_text_is_told_by_its_own_measures() -> None:
    report, paths = run(0.5)
    (row,) = report["results"]
    row.update(accuracy=None, accuracy_after={}, perplexity=46.5, kl=0.25)
    row["dense"] = {"loss": 3.4, "accuracy": None, "perplexity": 30.0}
    row["perplexity_after"] = {"cut": 80.0, "refit": 46.5, "finetune": None}
    markdown = page(report, paths)
    (shown,) = table(markdown, "Results")
    words = ("perplexity", "dense perplexity", "KL")
    assert [shown[key] for key in words] == ["46.5", "30", "0.25"]
    assert (
        "Perplexity after each stage: dense 30, cut alone 80, least-squares refit 46.5." in markdown
    )
    assert "layer by layer over 1,024 rows: objective" in markdown
