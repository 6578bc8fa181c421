"""Sweeps and comparisons from the outside: what ``-m`` and ``gfs report`` of several leave."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.cli import main
from gfs_dist.config.compose import compose
from gfs_dist.workflows.prune_two_layer import TwoLayerPruning
from gfs_dist.workflows.train_two_layer import TwoLayerTraining, training_key
from tests.jobs.deep_runs import outcome, prune, report

SMALL = ["data.samples=60", "model.width=12", "train.iterations=4", "train.checkpoint_every=2"]
ALONE = [*SMALL, "runtime=none", "threads=1"]


@pytest.fixture(scope="module", autouse=True)
def no_pages_of_points() -> Iterator[None]:
    """The plots of each single run take most of its time, and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gfs_dist.report.write", lambda *_: None)
        yield


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each training has done, from the first on."""
    steps: list[int] = []
    train = TwoLayerTraining.train

    def counted(self: TwoLayerTraining, run: Any, reporter: Any) -> None:
        before = run.folder.checkpoints()
        train(self, run, reporter)
        steps.append(run.folder.checkpoints()[-1][0] - (before[-1][0] if before else -1))

    monkeypatch.setattr(TwoLayerTraining, "train", counted)
    return steps


def page(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep over steps and objective."""
    out = tmp_path_factory.mktemp("sweep") / "sweep"
    assert main(["prune", "-m", "steps=2,3", "objective=squared,bce", f"out={out}", *ALONE]) == 0
    return out


def test_equal_trainings_are_done_once(tmp_path: Path, trained: list[int]) -> None:
    words = ["steps=2,3", "seed=0,1"]
    assert main(["prune", "-m", *words, f"out={tmp_path / 'a'}", *ALONE]) == 0
    assert trained == [5, 5, 0, 0]


@pytest.mark.parametrize(
    ("word", "equal"),
    [
        ("weights=line_search", True), ("distinct=3", True), ("workers=2", True),
        ("data.prune_samples=40", True), ("data.validation=0.25", False),
        ("objective=least_squares", True),
        ("seed=1", False), ("data.samples=50", False), ("data=synthetic", False),
        ("model.width=9", False), ("model.activation=relu", False), ("objective=bce", False),
        ("train.iterations=5", False), ("train=sgd", False), ("train.lr=0.25", False),
        ("threads=2", False), ("device=cpu", False),
    ],
)  # fmt: skip
def test_what_a_training_depends_on_tells_it_apart(word: str, equal: bool) -> None:
    key = training_key(compose("prune", SMALL))
    assert (training_key(compose("prune", [*SMALL, word])) == key) == equal


def test_a_point_is_what_it_is_alone(swept: Path, tmp_path: Path) -> None:
    for place, words in ((2, ["steps=3", "objective=squared"]), (3, ["steps=3", "objective=bce"])):
        prune(tmp_path / str(place), *words, *ALONE)
        assert outcome(swept / str(place)) == outcome(tmp_path / str(place))
        for file in (tmp_path / str(place) / "checkpoints").rglob("*.*"):
            own = swept / str(place) / file.relative_to(tmp_path / str(place))
            assert own.read_bytes() == file.read_bytes()


def test_a_sweep_at_a_url_is_the_same(swept: Path, tmp_path: Path, trained: list[int]) -> None:
    out, words = tmp_path / "there", ["steps=3", "objective=squared,bce", "weights=uniform"]
    assert main(["prune", "-m", *words, "replacement=true,false", f"out=file://{out}", *ALONE]) == 0
    assert trained == [5, 0, 5, 0]
    for place, same in ((0, 2), (2, 3)):
        assert outcome(out / str(place)) == outcome(swept / str(same))
    assert report(out)["keys"] == ["objective", "replacement"]
    assert "plots/accuracy_and_loss.png" in page(out)


def test_a_point_goes_on_alone(swept: Path, tmp_path: Path) -> None:
    copy = tmp_path / "point"
    shutil.copytree(swept / "2", copy)
    before = outcome(copy)
    for name in ("report.json", "paths", "models"):
        (shutil.rmtree if (copy / name).is_dir() else Path.unlink)(copy / name)
    assert main(["prune", f"resume={copy}"]) == 0
    assert outcome(copy) == before


def test_one_table_and_one_page_end_a_sweep(swept: Path, tmp_path: Path, capsys: Any) -> None:
    found = report(swept)
    assert (found["job"], found["compares"], found["keys"]) == (
        "comparison", "prune", ["steps", "objective"],
    )  # fmt: skip
    assert len(found["results"]) == 4 * 3
    row = found["results"][-1]
    own = report(swept / "3")["results"][-1]
    assert (row["run"], row["values"]) == ("3", {"steps": 3, "objective": "bce"})
    assert all(row[key] == own[key] for key in ("loss", "accuracy", "kept", "picks_sha256"))
    assert "| run | steps | objective | iteration | kept | picks | loss | dense loss |" in page(
        swept
    )
    assert "- [3](3/report.md)" in page(swept)
    assert "plots/accuracy_and_loss.png" in page(swept)
    assert (swept / "plots" / "accuracy_and_loss.png").is_file()
    assert 'href="3/report.html"' in (swept / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(swept)]) == 0
    out = capsys.readouterr().out.splitlines()
    header = out[out.index("all runs of gfs prune") + 1].split("  ")
    assert [cell.strip() for cell in header if cell][:3] == ["run", "steps", "objective"]
    assert report(swept) == found


def test_a_killed_sweep_goes_on_as_a_whole(
    tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out, words = tmp_path / "a b", ["steps=2,3,4", *ALONE]
    with monkeypatch.context() as patch:
        done: list[None] = []
        keep = TwoLayerPruning.keep

        def killed(*facts: Any) -> None:
            done.append(None)
            if len(done) == 5:  # of the second point, the first checkpoint is pruned
                raise KeyboardInterrupt
            keep(*facts)

        patch.setattr(TwoLayerPruning, "keep", killed)
        assert main(["prune", "-m", *words, f"out={out}"]) == 130
    said = capsys.readouterr().err
    assert "go on with: gfs prune -m steps=2,3,4 data.samples=60" in said
    assert f"'resume=\"{out}\"'" in said
    first = (out / "0" / "report.json").read_bytes()
    assert main(["prune", "-m", *words, f"resume={out}"]) == 0
    assert f"{out / '0'}: finished already" in capsys.readouterr().out
    assert (out / "0" / "report.json").read_bytes() == first
    assert trained == [5, 0, 0, 0]
    assert [row["run"] for row in report(out)["results"]] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=3,2"], "steps: found 3, the run folder has 2"),
        (["steps=2,3", "seed=1"], "seed: found 1, the run folder has 0"),
    ],
)
def test_a_sweep_goes_on_as_it_was(
    swept: Path, capsys: Any, words: list[str], message: str
) -> None:
    again = [*words, "objective=squared,bce", f"resume={swept}", *ALONE]
    assert main(["prune", "-m", *again]) == 2
    assert message in capsys.readouterr().err


def test_new_points_need_all_words_of_the_sweep(swept: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(swept, out)
    shutil.rmtree(out / "3")
    words = ["steps=2,3", "objective=squared,bce"]
    assert main(["prune", "-m", *words, f"resume={out}"]) == 2  # not as large as the others
    said = capsys.readouterr().err
    assert "accepted the words of the whole sweep" in said
    assert "data.samples: found null, the run folder has 60" in said
    assert not (out / "3").exists()
    assert main(["prune", "-m", *words, f"resume={out}", *ALONE]) == 0
    assert outcome(out / "3") == outcome(swept / "3")


def test_fewer_points_do_not_replace_the_page_of_all(swept: Path, capsys: Any) -> None:
    before = (swept / "report.json").read_bytes()
    assert main(["prune", "-m", f"resume={swept}"]) == 2
    assert "resume: found words of 1 run," in capsys.readouterr().err
    assert (swept / "report.json").read_bytes() == before


def test_a_sweep_over_another_run_is_refused(swept: Path, capsys: Any) -> None:
    for out in (swept, swept / "0"):
        assert main(["prune", "-m", "steps=2,3", f"out={out}", *ALONE]) == 2
        assert f"out: {out} exists and is not empty" in capsys.readouterr().err


def test_other_commands_end_with_a_table_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "-m", "seed=0,1", *SMALL, "out=dense", "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert [run["run_folder"] for run in told["runs"]] == ["dense/0", "dense/1"]
    assert (told["run_folder"], told["report"]) == ("dense", "dense/report.json")
    found = report("dense")
    assert [(row["values"], row["iteration"]) for row in found["results"]] == [
        ({"seed": 0}, 4), ({"seed": 1}, 4),
    ]  # fmt: skip
    assert "- The best accuracy is" in page(Path("dense"))
    point = "dense/0/checkpoints/step_00000004"
    assert main(["evaluate", point, "-m", "objective=squared,bce", "data.samples=60"]) == 0
    table = capsys.readouterr().out.split("all runs of gfs evaluate\n")[1].splitlines()
    assert table[0].split()[:2] == ["run", "objective"]
    assert [line.split()[:2] for line in table[1:3]] == [["0", "squared"], ["1", "bce"]]


def test_experiments_and_judgements_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["experiment=figure3", "seed=0,1", "runtime=none"]
    assert main(["reproduce", "-m", *words, "out=grids"]) == 0
    table = capsys.readouterr().out.split("all runs of gfs reproduce\n")[1].splitlines()
    assert table[0].split()[:4] == ["run", "seed", "claim", "verdict"]
    assert [(r["values"], r["verdict"]) for r in report("grids")["results"]] == [
        ({"seed": 0}, "holds"), ({"seed": 1}, "holds"),
    ]  # fmt: skip
    assert 'href="1/report.html"' in Path("grids/report.html").read_text(encoding="utf-8")
    assert main(["pretrain", *SMALL, "out=dense"]) == 0
    assert main(["advise", "dense", "-m", "steps=2,3", "out=judged"]) == 0
    rows = report("judged")["results"]
    assert [(r["values"], r["iteration"], r["verdict"]) for r in rows] == [
        ({"steps": 2}, 4, "too early"), ({"steps": 3}, 4, "too early"),
    ]  # fmt: skip
    assert Path("judged/plots/accuracy_and_loss.png").is_file()
    assert "| too early |" in page(Path("judged"))


def test_unrelated_runs_are_compared(swept: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other"
    prune(other, *ALONE, "steps=4", "weights=line_search", "seed=3")
    before = (other / "report.json").read_bytes()
    out = tmp_path / "page"
    words = [str(swept / "1"), str(other), f"out={out}"]
    assert main(["report", *words]) == 0
    found = report(out)
    assert found["keys"] == ["seed", "objective", "weights", "steps"]  # data.seed is the same
    assert {row["run"] for row in found["results"]} == {str(swept / "1"), str(other)}
    assert "(../other/report.md)" in page(out)
    assert (other / "report.json").read_bytes() == before
    assert main(["report", *words]) == 2
    assert f"out: {out} exists and is not empty" in capsys.readouterr().err


def test_without_out_the_page_of_several_has_a_folder(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(swept), str(swept / "0")]) == 0
    [made] = Path("runs").iterdir()
    assert made.name.endswith("_report")
    assert len(report(made)["results"]) == 5 * 3


def test_bad_runs_are_refused_by_name(swept: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["pretrain", *SMALL, f"out={tmp_path / 'dense'}"]) == 0
    one, missing, page_of_two = str(swept / "0"), str(tmp_path / "no"), tmp_path / "two"
    assert main(["report", one, one, f"out={page_of_two}"]) == 0
    capsys.readouterr()
    for words, message in (
        ([one, missing], f"path: found {missing}, accepted a run folder with report.json"),
        ([one, str(tmp_path)], f"path: found {tmp_path}, accepted a run folder with report.json"),
        (
            [one, str(tmp_path / "dense")],
            f"path: found runs of gfs prune ({one}) and of gfs pretrain ({tmp_path / 'dense'}), "
            "accepted are runs of one command",
        ),
        ([str(page_of_two)], f"path: found the page on several runs in {page_of_two}"),
        ([one, f"out={missing}"], f"out: found {missing}, accepted with several run folders"),
        ([one, "\0"], "others: found '\\x00', accepted a path"),
    ):
        assert main(["report", *words]) == 2
        assert message in capsys.readouterr().err
    assert not Path(missing).exists()


def test_a_damaged_run_is_not_compared(swept: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "sweep"
    shutil.copytree(swept, copy)
    (copy / "1" / "paths" / "step_00000002.json").write_text("{}")
    assert main(["report", str(copy)]) == 2
    assert "1/paths/step_00000002.json" in capsys.readouterr().err
