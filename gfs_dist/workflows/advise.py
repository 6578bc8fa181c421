"""Judges whether a training was enough: prunes its checkpoints as ``gfs prune`` does, then a rule.

A run folder of ``gfs advise`` holds the pruned networks of a run of ``gfs pretrain``; the one that
``gfs pretrain stop=enough`` makes lies within its own.
"""

from __future__ import annotations

import itertools
import math
import shlex
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from gfs_dist import report as pages
from gfs_dist.command_words import assigned, typed
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import data_words, model_words
from gfs_dist.config.compose import compose, compose_stored
from gfs_dist.config.groups import value_of
from gfs_dist.config.stored import has_begun
from gfs_dist.errors import InputError
from gfs_dist.files import RunFolder
from gfs_dist.files.mirror import ADVICE
from gfs_dist.records import Advice, Measured, PathFile, ResultRow, Saved, SeriesFacts, SeriesRow
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.theory import Rule, judge
from gfs_dist.training import TrainSpec
from gfs_dist.workflows.pipeline import NetworkFamily, PruneRun, prune_all
from gfs_dist.workflows.process import data_spec, given_keys
from gfs_dist.workflows.prune_deep import DeepFamily
from gfs_dist.workflows.prune_two_layer import TwoLayerFamily
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_events import step_times
from gfs_dist.workflows.run_report import RunReport, open_folder
from gfs_dist.workflows.stored_networks import read_images
from gfs_dist.workflows.total_time import TotalTime
from gfs_dist.workflows.train_deep import deep_spec

MOST_PICKS = 200
"""Of a two-layer network, or half its neurons: the paper prunes to 200."""


class Adviser:
    """What ``gfs advise`` does, without its run folder.

    Attributes:
        trained: the configuration of the training.
        pruning: that of the pruning, as ``gfs prune`` has it, of all checkpoints.
        rule: without the noise of a deep network's accuracy.
        planned: iterations that the training was to have.
    """

    def __init__(self, config: schema.Advise) -> None:
        self.config = config
        found = compose_stored("pretrain", config.path, config.factory, reader="advise")
        assert isinstance(found, schema.Pretrain)
        self.trained = found
        self.deep = not isinstance(found.model, schema.TwoLayer)
        runtime = config.runtime
        if runtime.kind == "local" and config.workers == 1:
            runtime = schema.Runtime("none")
        self.pruning: schema.Prune = replace(
            compose("prune", [*self._words(), "runtime=none"]),
            runtime=runtime,
            workers=config.workers,
            device=config.device,
            threads=config.threads,
        )
        if self.deep:
            self.planned = deep_spec(found.train, found.seed).iterations
        else:
            self.planned = TrainSpec(**given_keys(found.train, TrainSpec)).iterations

    def family(self, checkpoint: Path | str | None = None) -> NetworkFamily:
        """All checkpoints, or one of them, to be pruned.

        Raises:
            InputError: as for ``gfs prune``, in the words of ``gfs advise``.
        """
        of_one = replace(self.pruning, checkpoint=str(checkpoint or self.pruning.checkpoint))
        try:
            return DeepFamily(of_one) if self.deep else TwoLayerFamily(of_one)
        except InputError as error:
            if self.config.prune_samples is None:  # the key is that of the training
                raise
            raise type(error)(str(error).replace("data.prune_samples", "prune_samples")) from error

    def advice(
        self, report: RunReport, iteration_s: float | None, until: int | None = None
    ) -> Advice:
        """The judgement of the checkpoints that a run folder has pruned.

        Args:
            iteration_s: seconds of an iteration of the training, if they are known.
            until: the last checkpoint that counts; None: all do.
        """
        rows = sorted(report.rows, key=_iteration)
        rows = [row for row in rows if until is None or _iteration(row) <= until]
        series = series_of(rows, report.folder.read_paths(rows))
        rule = self._rule(series)
        found = judge(series, rule)
        for row, rise, enough in zip(series, rule.rises(series), rule.fired(series), strict=True):
            row["rise"], row["enough"] = rise, enough
        for before, row in itertools.pairwise(series):
            row["gain"] = row[rule.accuracy] - before[rule.accuracy]
        return {
            "verdict": found.verdict,
            "since": found.since,
            "rule": rule.words,
            "reason": found.reason,
            "planned": self.planned,
            "saved": None if found.since is None else self._saved(found.since, iteration_s),
            "series": series,
        }

    def _words(self) -> list[str]:
        """The command line of ``gfs prune`` that prunes all checkpoints."""
        config, trained = self.config, self.trained
        given = {key: getattr(config, key) for key in ("objective", "weights", "steps", "distinct")}
        given |= {f"budget.{key}": value for key, value in vars(config.budget).items()}
        given["calibration.samples"] = config.calibration.samples
        given["data.prune_samples"] = config.prune_samples
        if isinstance(trained.model, schema.TwoLayer):
            given["objective"] = config.objective or trained.objective
            if config.steps is None and config.distinct is None:
                given["steps"] = max(1, min(MOST_PICKS, trained.model.width // 2))
        words = [
            data_words(trained.data, trained.seed),
            model_words(trained.model),
            typed("checkpoint", config.path),
            typed("out", config.out),
            *(typed(key, str(value)) for key, value in given.items() if value is not None),
            f"seed={trained.seed}",
        ]
        return shlex.split(" ".join(words))

    def _rule(self, series: Sequence[SeriesRow]) -> Rule:
        """Two-layer networks are judged by what they were pruned on, deep ones by held-out data.

        A difference of deep accuracies below its standard error says nothing, so two checkpoints
        have to agree; and while their step size is above half of the first one, accuracy may stand
        still only to rise again as the step falls.
        """
        threshold = self.config.threshold / 100
        if not self.deep:
            return Rule(threshold)
        share = series[-1]["accuracy_held_out"] if series else 0.5
        images = read_images(data_spec(self.trained.data))
        number = len(images.x_test if images.validation is None else images.validation[1])
        noise = math.sqrt(2 * share * (1 - share) / number)
        half = -(-self.planned // 2)
        return Rule(max(threshold, noise), accuracy="accuracy_held_out", in_a_row=2, earliest=half)

    def _saved(self, since: int, iteration_s: float | None) -> Saved:
        left = max(0, self.planned - since)
        return {
            "iterations": left,
            "share": left / self.planned if self.planned else 0.0,
            "seconds": None if iteration_s is None else left * iteration_s,
        }


class StopWhenEnough:
    """Asked at each checkpoint of a training: prunes it, and says whether that was enough.

    Killed anywhere and asked again it answers the same: what it goes by is in its run folder.

    Attributes:
        advice: its last answer; None before the first.

    Args:
        folder: of the training.
        report: of the run folder of ``gfs advise`` within it.
    """

    def __init__(
        self, adviser: Adviser, folder: RunFolder, report: RunReport, reporter: Reporter
    ) -> None:
        self._adviser, self._folder, self._report = adviser, folder, report
        self._reporter = reporter
        self._began_s, self._own_s, self._first = 0.0, 0.0, -1
        self.advice: Advice | None = None

    def __call__(self, iteration: int) -> bool:
        began_s = time.perf_counter()
        if self._first < 0:
            self._first, self._began_s = iteration, began_s
        adviser, report = self._adviser, self._report
        family = adviser.family(self._folder.checkpoint(iteration))
        with open_runtime(RuntimeSpec("none"), observers=[report.events]) as runtime:
            prune_all(family, PruneRun(runtime, report, TotalTime(Reporter(), {})))
        trained_s, steps = began_s - self._began_s - self._own_s, iteration - self._first
        advice = adviser.advice(report, trained_s / steps if steps else None, iteration)
        self.advice = report.more["advice"] = advice
        self._own_s += time.perf_counter() - began_s
        row = advice["series"][-1]
        self._reporter.note(
            f"iteration {iteration:,}: pruned {pages.percent(row['accuracy_train'])} on training "
            f"data (dense {pages.percent(row['dense']['accuracy_train'])}): "
            f"{pages.verdict(advice)}"
        )
        return advice["verdict"] != "too_early"


@contextmanager
def stopping(
    config: schema.Pretrain, folder: RunFolder, reporter: Reporter
) -> Iterator[StopWhenEnough | None]:
    """What ``stop=enough`` asks at each checkpoint of a training; None for ``stop=iterations``."""
    if config.stop != "enough":
        yield None
        return
    home = folder.path / ADVICE
    given = {"path": str(folder.path), "out": str(home), "device": config.device}
    given |= {"factory": factory} if (factory := value_of(config, "model.factory")) else {}
    advise = compose("advise", [assigned(key, value) for key, value in given.items()])
    if has_begun(str(home)):
        advise = replace(advise, resume=str(home))
    with open_folder(advise, reporter) as own:
        report = RunReport(own, "advise", reporter, continued=True)
        with report.recorded():
            yield StopWhenEnough(Adviser(advise), folder, report, reporter)


def series_of(
    rows: Sequence[ResultRow], paths: Mapping[str, Mapping[str, PathFile]]
) -> list[SeriesRow]:
    """The series of pruned checkpoints, by rising iteration."""
    series: list[SeriesRow] = []
    before: dict[Any, float] = {}
    for row in rows:
        own = _weights(row, paths.get(row["name"], {}))
        overlap = sum(min(weight, before.get(pick, 0.0)) for pick, weight in own.items())
        series.append(
            {
                "iteration": _iteration(row),
                **_facts(row),
                "dense": _facts(row["dense"]),
                "gain": None,
                "rise": None,
                "overlap": overlap if before else None,
                "enough": False,
            }
        )
        before = own
    return series


def iteration_seconds(folder: RunFolder) -> float | None:
    """Seconds of an iteration of a training: the median between checkpoints; None if not known."""
    reached = step_times(folder)
    times = sorted((step, reached[step]) for step, _ in folder.checkpoints() if step in reached)
    pairs = itertools.pairwise(times)
    spans = [(later - sooner) / (after - before) for (before, sooner), (after, later) in pairs]
    return statistics.median(spans) if spans else None


def _facts(measured: Measured) -> SeriesFacts:
    held_out = measured.get("accuracy_validation")
    found = {key: measured.get(key) for key in ("loss", "accuracy_train", "accuracy")}
    found["accuracy_held_out"] = found["accuracy"] if held_out is None else held_out
    return cast(SeriesFacts, found)


def _iteration(row: ResultRow) -> int:
    return row["iteration"] or 0


def _weights(row: ResultRow, paths: Mapping[str, PathFile]) -> dict[tuple[str, int], float]:
    """Each pick, by layer, with its share of all; as large as each other if they were refitted."""
    kept = {layer["name"]: layer["kept"] for layer in row.get("layers", [])}
    found: dict[tuple[str, int], float] = {}
    for layer, path in paths.items():
        if kept or path["coefficients"] is None:
            picks = [*dict.fromkeys(path["picks"])][: kept.get(layer)]
            found |= {(layer, pick): 1.0 for pick in picks}
        else:  # the one path of a two-layer network has the name of its result
            weights = enumerate(path["coefficients"])
            found |= {("", neuron): weight for neuron, weight in weights if weight}
    total = sum(found.values())
    return {pick: weight / total for pick, weight in found.items()}
