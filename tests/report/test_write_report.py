"""The pages of a run folder: complete for a finished run, shorter for less, never wrong."""

from __future__ import annotations

import copy
import os
import re

import numpy as np
import pytest
from matplotlib.image import imread

from gfs_dist.errors import InputError, StorageError
from gfs_dist.report import Origin, machine, versions, write, write_card
from gfs_dist.report.facts import Run
from gfs_dist.report.render import page as facts_of
from gfs_dist.report.render import to_html, to_markdown
from gfs_dist.theory import why_no_bound
from tests.report.pages import page, table

ITERATIONS = (0, 500, 2000)
ALL_PLOTS = {
    "loss_against_neurons.png",
    "loss_against_steps.png",
    "accuracy_against_pretraining.png",
    "time_per_rank.png",
}


def run(steps=40):
    """A finished run of three checkpoints, as report.json and path files hold it."""
    report = {
        "format": 1,
        "job": "prune",
        "status": "finished",
        "command": "gfs prune steps=40",
        "dense": {"loss": 0.01, "accuracy": 0.95, "macs": 65_000, "params": 65_000},
        "results": [],
        "timing": {
            "total_s": 31.2,
            "setup_s": 4.0,
            "steps_s": 0.0421,
            "exchange_s": 0.01,
            "ranks": [
                {"rank": 0, "host": "one", "compute_s": 0.3, "exchange_s": 0.1, "wait_s": 0.05},
                {"rank": 1, "host": "one", "compute_s": 0.2, "exchange_s": 0.2, "wait_s": 0.15},
            ],
        },
        "faults": [],
        "machine": machine(),
        "versions": versions(),
    }
    paths = {}
    for order, iteration in enumerate(ITERATIONS):
        name = f"iteration_{iteration:08d}"
        dense = {"loss": [0.5, 0.1, 0.02][order], "accuracy": [0.5, 0.9, 0.95][order]}
        dense["accuracy_train"] = [0.51, 0.92, 0.99][order]
        loss = [0.5 / (order + 1) / k + 0.03 for k in range(1, steps + 1)]
        picks = [(7 * k) % 11 for k in range(steps)]
        paths[name] = {
            name: {
                "format": 1,
                "neurons": 1000,
                "samples": 1437,
                "objective": "squared",
                "weights": "uniform",
                "picks": picks,
                "loss": loss,
                "coefficients": None,
                "step_sizes": [1 / k for k in range(1, steps + 1)],
                "gap": [None] * steps,
                "dense_loss": dense["loss"],
            },
        }
        report["results"].append(
            {
                "name": name,
                "iteration": iteration,
                "objective": "squared",
                "kept": len(set(picks)),
                "loss": loss[-1],
                "accuracy": [0.8, 0.93, 0.9421][order],
                "accuracy_train": [0.81, 0.95, 0.97][order],
                "macs": 715,
                "params": 715,
                "path": f"paths/{name}.json",
                "model": f"models/{name}",
                "picks_sha256": f"{order}a" * 32,
                "dense": dense,
                "stop_reason": "steps",
                "theory": {
                    "bound": [value * 3 for value in loss],
                    "diameter_squared": 4.25,
                    "exact": order != 1,
                    "first_loss": loss[0],
                },
            }
        )
    return report, paths


def written(tmp_path, report, paths):
    write(tmp_path, report, paths)
    return (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, written once."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "config.yaml").write_text("data:\n  name: <digits>\n", encoding="utf-8")
    write(folder, *run())
    return folder


def number(word):
    return float(word.replace(",", "").replace(" %", "").strip("`"))


def test_result_table_holds_the_values_of_the_report():
    report, paths = run()
    rows = table(page(report, paths), "Results")
    assert len(rows) == 3
    for row, result in zip(rows, report["results"], strict=True):
        assert row["result"] == result["name"]
        assert number(row["iteration"]) == result["iteration"]
        assert number(row["kept"]) == result["kept"]
        assert number(row["steps"]) == 40
        assert number(row["loss"]) == pytest.approx(result["loss"], rel=1e-5)
        assert number(row["dense loss"]) == pytest.approx(result["dense"]["loss"], rel=1e-5)
        assert number(row["Lemma 1 bound"]) == pytest.approx(
            result["theory"]["bound"][-1], rel=1e-5
        )
        assert number(row["accuracy"]) == pytest.approx(100 * result["accuracy"])
        assert number(row["dense accuracy"]) == pytest.approx(100 * result["dense"]["accuracy"])
        assert number(row["train accuracy"]) == pytest.approx(100 * result["accuracy_train"])
        dense = 100 * result["dense"]["accuracy_train"]
        assert number(row["dense train accuracy"]) == pytest.approx(dense)
        assert number(row["multiply-adds"]) == result["macs"]
        assert row["picks (SHA-256)"].strip("`") == result["picks_sha256"][:12]


def test_plots_are_images_of_a_sensible_size(finished):
    markdown = (finished / "report.md").read_text(encoding="utf-8")
    found = {path.name: path for path in (finished / "plots").iterdir()}
    assert set(found) == ALL_PLOTS
    for name, path in found.items():
        image = imread(path)
        height, width = image.shape[:2]
        assert 200 <= height <= 2000, name
        assert 700 <= width <= 2000, name
        assert len(np.unique(image[:, :, 0])) > 10, name
        assert f"](plots/{name})" in markdown


def test_html_is_one_file_that_refers_to_nothing(finished):
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', html) == []
    for word in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert word not in html
    assert html.count("data:image/png;base64,") == len(ALL_PLOTS)


def test_tables_scroll_in_a_box_of_their_own_and_sentences_wrap(finished):
    page = (finished / "report.html").read_text()
    assert page.count("<table") == page.count('<div class="scroll"><table') > 3
    rules = dict(re.findall(r"^([^{}\n]+) \{ ([^}]*)", page, re.MULTILINE))
    assert "overflow-x: auto" in rules[".scroll"]
    assert "white-space: normal" in rules[".text td"]
    assert "white-space: normal" in rules["th"]
    assert "overflow-wrap: anywhere" in rules["body"]


def test_configuration_and_command_are_quoted(finished):
    markdown = (finished / "report.md").read_text(encoding="utf-8")
    assert "```\ngfs prune steps=40\n```" in markdown
    assert "```\ndata:\n  name: <digits>\n```" in markdown
    assert "name: &lt;digits&gt;" in (finished / "report.html").read_text(encoding="utf-8")


def test_writing_again_gives_the_same_bytes_and_changes_nothing_given(finished):
    files = {path: path.read_bytes() for path in finished.rglob("*.*")}
    report, paths = run()
    before = copy.deepcopy((report, paths))
    write(finished, report, paths)
    assert {path: path.read_bytes() for path in finished.rglob("*.*")} == files
    assert (report, paths) == before


def test_summary_says_what_pruning_kept():
    markdown = page(*run())
    assert (
        "11 of 1,000 neurons (1.1 %) keep 99.2 % of the dense accuracy after 2,000 iterations of "
        "pre-training (94.21 % against 95.00 %)." in markdown
    )
    assert "more accurate than the dense one it came from at iterations 0 and 500" in markdown
    assert "less accurate than the dense one it came from at iteration 2,000" in markdown
    assert "comes from iteration 2,000 (94.21 %)" in markdown
    assert "pre-training was too short at iterations 0 and 500 (93.00 % at best)" in markdown
    assert "within the bound of Lemma 1 after every pick of every path; the bound" in markdown
    assert "3 times the loss after the last pick" in markdown


def test_summary_says_when_no_checkpoint_was_enough():
    report, paths = run()
    for result in report["results"]:
        result["accuracy"] = 0.7
    markdown = page(report, paths)
    assert "No pruned network comes within 1 point of the dense network" in markdown
    assert "keep more, or train longer" in markdown


def test_summary_says_when_every_checkpoint_was_enough():
    report, paths = run()
    for result in report["results"]:
        result["accuracy"] = 0.96
    markdown = page(report, paths)
    assert "no checkpoint of this run had too little pre-training" in markdown
    assert "more accurate than the dense one it came from at every checkpoint" in markdown


def test_measured_constants_stand_beside_the_result():
    rows = table(page(*run()), "Theory")
    assert [row["D^2"] for row in rows] == ["4.25"] * 3
    assert [row["D is"] for row in rows] == ["measured", "upper bound", "measured"]
    assert [row["holds"] for row in rows] == ["yes"] * 3


def test_a_loss_above_the_bound_is_not_hidden():
    report, paths = run()
    report["results"][1]["theory"]["bound"][6] = 1e-3
    markdown = page(report, paths)
    assert "above the bound of Lemma 1 at 500 iterations (pick 7)" in markdown
    assert table(markdown, "Theory")[1]["holds"] == "no, from pick 7"


def trained(job, accuracies):
    """The report of a training with a checkpoint every 100 iterations."""
    points = [
        {"name": f"step_{100 * i:08d}", "iteration": 100 * i, "loss": 1.0, "accuracy": accuracy}
        for i, accuracy in enumerate(accuracies)
    ]
    rows = points if job == "pretrain" else [{**points[-1], "checkpoints": points}]
    return {"format": 1, "job": job, "status": "finished", "results": rows}


@pytest.mark.parametrize("job", ["pretrain", "finetune"])
def test_a_training_tells_what_it_came_to_and_nothing_of_pruning(tmp_path, job):
    markdown = written(tmp_path, trained(job, [0.1, 0.9, 0.85]), {})
    assert "200 iterations of training took the accuracy on the test split" in markdown
    assert "from 10.00 % to 85.00 %" in markdown
    assert "the best checkpoint is that of iteration 100 (90.00 %)" in markdown
    assert "prun" not in markdown
    assert {f.name for f in (tmp_path / "plots").iterdir()} == {"accuracy_against_training.png"}


def test_a_stopped_run_says_so_and_how_to_continue(tmp_path):
    report, paths = run()
    report["status"] = "stopped"
    report["results"] = report["results"][:1]
    markdown = written(tmp_path, report, paths)
    assert "stopped before its end, with 1 result; `resume=RUN_DIR`" in markdown
    assert not (tmp_path / "plots" / "accuracy_against_pretraining.png").exists()
    assert (tmp_path / "plots" / "loss_against_neurons.png").exists()


def test_a_run_stopped_before_any_result_has_a_page(tmp_path):
    markdown = written(tmp_path, {"format": 1, "job": "prune", "status": "stopped"}, {})
    assert "with 0 results" in markdown
    assert "## Results" not in markdown
    assert list((tmp_path / "plots").iterdir()) == []


def test_a_failed_run_names_its_error():
    report, paths = run()
    report |= {"status": "failed", "error": "rank 1: workers died faster than they came back"}
    assert "failed after 3 results: rank 1: workers died" in page(report, paths)


def test_cross_entropy_has_no_bound_and_says_why():
    report, paths = run()
    reason = why_no_bound("bce")
    for result in report["results"]:
        result |= {"objective": "bce", "theory": {"reason": reason}, "evaluated_share": 0.193}
    markdown = page(report, paths)
    assert f"## Theory\n\n{reason}." in markdown
    rows = table(markdown, "Results")
    assert "Lemma 1 bound" not in rows[0]
    assert rows[0]["evaluated"] == "19.3 %"


def test_regression_without_accuracy_is_told_by_its_loss():
    report, paths = run()
    for result in report["results"]:
        result["accuracy"] = result["dense"]["accuracy"] = None
        result["accuracy_train"] = result["dense"]["accuracy_train"] = None
    markdown = page(report, paths)
    assert "reach a loss of 0.0341667 after 2,000 iterations" in markdown
    assert "(the dense network: 0.02)" in markdown
    assert "accuracy" not in table(markdown, "Results")[0]


def test_one_checkpoint_of_unknown_training_has_a_page(tmp_path):
    report, paths = run(steps=1)
    report["results"] = report["results"][:1]
    report["results"][0]["iteration"] = None
    markdown = written(tmp_path, report, paths)
    assert "on 1 checkpoint of a network with 1,000 neurons" in markdown
    assert "iteration" not in table(markdown, "Results")[0]


def test_many_checkpoints_fit_one_figure(tmp_path):
    report, paths = run()
    first = report["results"][0]
    for iteration in range(1, 30):
        name = f"more_{iteration}"
        report["results"].append(first | {"name": name, "iteration": 2000 + iteration})
        paths[name] = paths[first["name"]]
    write(tmp_path, report, paths)
    assert imread(tmp_path / "plots" / "loss_against_steps.png").shape[0] <= 2000


def test_faults_have_a_row_each():
    report, paths = run()
    report["faults"] = [
        {"time": 1.5, "rank": 1, "kind": "killed", "step": 40, "recovered_s": 2.25},
        {"time": 14.0, "rank": 0, "kind": "hung", "step": 61, "recovered_s": None},
    ]
    markdown = page(report, paths)
    assert "2 faults in the run, 1 recovered, the slowest in 2.25 s." in markdown
    rows = table(markdown, "Faults")
    assert rows[0] == {
        "time": "1970-01-01 00:00:01", "rank": "1", "kind": "killed", "step": "40",
        "recovered after": "2.25 s",
    }  # fmt: skip
    assert rows[1]["recovered after"] == "-"


def test_time_of_each_rank_is_split_without_counting_twice():
    rows = table(page(*run()), "Time")
    assert [row["compute"] for row in rows] == ["300.0 ms", "200.0 ms"]
    assert [row["exchange"] for row in rows] == ["50.0 ms", "50.0 ms"]
    assert [row["wait"] for row in rows] == ["50.0 ms", "150.0 ms"]
    assert "set-up" not in rows[0]


def test_a_benchmark_report_shows_its_rows_as_they_are():
    rows = [
        {
            "method": "panel",
            "neurons": 1000,
            "seconds": {"median": 0.5, "minimum": 0.4, "maximum": 1},
        },
        {"method": "a|b", "neurons": 20000, "same_picks": True},
    ]
    report = {"format": 1, "job": "benchmark", "status": "finished", "results": rows}
    markdown = page(report, {})
    assert "| a\\|b |" in markdown
    found = table(markdown.replace("a\\|b", "ab"), "Results")[0]
    assert found == {
        "method": "panel", "neurons": "1,000", "seconds": "0.5 (0.4 to 1)", "same picks": "-",
    }  # fmt: skip


def test_no_plot_is_named_by_a_report(tmp_path):
    """Plots of blocks are named after an objective, which may be anybody's words in a report."""
    seconds = {"median": 1.0, "min": 0.9, "max": 1.1}
    row = {"block": "a", "channels": 4, "workers": 1, "measured": "whole", "seconds": seconds}
    rows = [
        {**row, "speedup": 1.0, "objective": objective}
        for objective in ("fisher/../x", "layer_output")
    ]
    markdown = written(tmp_path / "run", {"job": "benchmark", "results": rows}, {})
    assert [file.name for file in tmp_path.rglob("*.png")] == ["blocks_layer_output.png"]
    assert "Left: seconds to prune each block; hatched, ranks that were timed one" in markdown


def test_a_report_without_job_is_refused(tmp_path):
    with pytest.raises(InputError, match="report: found no `job`"):
        write(tmp_path, {"results": []}, {})


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="file/run/plots: cannot be written"):
        write(tmp_path / "file" / "run", *run())


HOSTILE = "<img src=x onerror=alert(1)> [a](javascript:x) | `</td>`\n# <script>"


def test_names_of_others_are_words_and_nothing_else(tmp_path):
    """Every text of a report, and every key, may be anybody's."""
    report, paths = run()
    named = {row["name"]: f"{number}{HOSTILE}" for number, row in enumerate(report["results"])}
    for row in report["results"]:
        row.update(name=named[row["name"]], stop_reason=HOSTILE, objective=HOSTILE)
    paths = {named[name]: path for name, path in paths.items()}
    report["timing"]["ranks"][0]["host"] = HOSTILE
    report["faults"] = [{"rank": HOSTILE, "kind": HOSTILE, "reason": HOSTILE, "time": 0.0}]
    report["machine"] = {HOSTILE: [HOSTILE]}
    report["versions"] = {HOSTILE: HOSTILE}
    report["tables"] = {HOSTILE: [{HOSTILE: HOSTILE}]}
    report |= {"job": HOSTILE, "notes": [HOSTILE], "command": f"gfs\n```\n{HOSTILE}"}
    config = f"data: {HOSTILE}\n````\n"
    shown = facts_of(Run.read(report, paths), [], config)
    markdown = to_markdown("report", shown)
    assert f"````\ngfs\n```\n{HOSTILE}\n````\n" in markdown
    assert f"`````\n{config.rstrip()}\n`````\n" in markdown
    outside = re.sub("(?ms)^(````+)$.*?^\\1$", "", markdown)
    assert outside.count("onerror") > 15
    assert not re.search(r"<[A-Za-z/!?]|\]\(|^# <", outside, re.MULTILINE)
    html = to_html("report", shown)
    tags = set(re.findall(r"<(/?[a-z0-9!]+)", html))
    assert tags.isdisjoint({"img", "script"})
    assert html.count("</td>") == html.count("<td>")


def test_a_card_holds_no_tags_and_quotes_its_factory(tmp_path):
    origin = Origin(
        network=HOSTILE, checkpoint=HOSTILE, data=HOSTILE, budget=HOSTILE, method=HOSTILE,
        inputs="x", factory='a:b"); print("',
    )  # fmt: skip
    report, _ = run()
    write_card(tmp_path, report, report["results"][0]["name"], origin)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert r'factory="a:b\"); print(\"")' in page
    assert page.count("onerror") > 5
    assert not re.search(r"<[A-Za-z/!?]|\]\(", page)


def test_a_pipe_in_place_of_the_configuration_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    assert "## Results" in written(tmp_path, *run())


def test_a_path_file_that_lacks_everything_takes_nothing_from_the_page():
    report, paths = run()
    name = report["results"][0]["name"]
    markdown = page(report, {**paths, name: {name: {"format": 1}}})
    assert [row["result"] for row in table(markdown, "Results")] == [
        row["name"] for row in report["results"]
    ]
