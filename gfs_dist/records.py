"""The records of a run folder: ``report.json``, rows of ``events.jsonl``, ``paths/NAME.json``.

They travel as JSON between processes, files and versions. Each is therefore the plain dict that
it is in its file, with a type. Writers are checked against it: ``NotRequired`` is what not every
job writes. Readers get it from :func:`read_report` and :func:`read_path`, which fill in what a
job or an older version left out and keep keys that this version does not know. The unit of a
value is the ending of its key; None is a value that does not exist.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict, cast

FORMAT = 1
"""``format`` of every JSON file of this version; any other is refused where a file is read."""

Status = Literal["finished", "stopped", "failed"]
Verdict = Literal["too_early", "enough", "certainly_enough"]
EventKind = Literal["rank_started", "step", "fault", "recovered", "graph", "finished"]


class Event(TypedDict):
    """A row of ``events.jsonl``: what happened to which rank, and when.

    Attributes:
        time: seconds since 1970.
        step: picks made, items finished, or iterations trained.
        kind: of a fault, as in :class:`FaultRow`.
        edges: pairs of ranks that are neighbours from now on.
        layer: that is worked on, in a run that prunes a deep network.
    """

    time: float
    event: EventKind
    generation: int
    rank: int | None
    pid: int | None
    host: str | None
    step: int | None
    kind: NotRequired[str]
    edges: NotRequired[list[list[int]]]
    layer: NotRequired[str]


class FaultRow(TypedDict):
    """A rank that failed.

    Attributes:
        time: of its detection, seconds since 1970.
        kind: ``killed``, ``hung`` or ``collective``.
        step: how far the work was.
        recovered_s: from its detection until work went on.
        detected_s: from a scheduled fault (tests) to its detection.
    """

    time: float
    rank: int
    kind: str
    step: int | None
    recovered_s: float | None
    detected_s: float | None
    reason: str | None


class RankTiming(TypedDict, total=False):
    """Where the time of one rank went; only what its work has is there.

    Attributes:
        setup_s: building the objective, or preparing for items.
        join_s: forming process groups.
        compute_s: the work without its exchanges.
        exchange_s: inside exchanges, the wait for slower ranks included.
        wait_s: that wait.
        idle_s: waiting for items of a map.
        items: of maps that it finished.
        messages, bytes: tensors handed to the network, and their size.
        evaluated, scored: candidates' losses evaluated, and asked for.
    """

    rank: int
    pid: int | None
    host: str | None
    setup_s: float
    join_s: float
    compute_s: float
    exchange_s: float
    wait_s: float
    idle_s: float
    items: int
    messages: int
    bytes: int
    peak_rss_bytes: int
    evaluated: int
    scored: int


class Timing(TypedDict, total=False):
    """Where the time of a run, or of one search, map or group task in it, went.

    Attributes:
        total_s: the whole job.
        train_s: training before or instead of searches.
        setup_s, steps_s: wall time of the coordinator; recoveries are in ``steps_s``.
        exchange_s, wait_s: the least and the most of all ranks.
        evaluated_share: part of the losses that a screened objective evaluated.
    """

    total_s: float
    train_s: float
    setup_s: float
    steps_s: float
    exchange_s: float
    wait_s: float
    evaluated_share: float | None
    ranks: list[RankTiming]


class LatencyRow(TypedDict):
    """Seconds of one forward pass of ``batch`` inputs, over ``repeats`` after a warm-up."""

    batch: int
    device: str
    median_s: float
    repeats: NotRequired[int]
    min_s: NotRequired[float]
    max_s: NotRequired[float]


class Measured(TypedDict, total=False):
    """What is measured of a network, dense or pruned.

    Attributes:
        loss: mean over the data that was pruned on. Of a deep network that was trained: as its
            training met it (:class:`gfs_dist.training.TrainState`); that was evaluated: over the
            test split.
        accuracy: share of the test split.
        perplexity, kl, cosine: of text, on the test split (see :mod:`networks.measure.quality`): of
            causal models the exponential of the mean loss of a token; the mean divergence from the
            dense network's probabilities, in nats; of embeddings the mean cosine to the dense
            network's. Absent where they do not apply.
        accuracy_train: share of the data that was pruned on; without pruning, of the training
            split, deep networks: of at most as many of its images as the test split has.
        accuracy_validation: share of what ``data.validation`` holds out.
        loss_train, loss_test, loss_validation: means over the data of ``accuracy_train``,
            ``accuracy`` and ``accuracy_validation``.
        macs: multiply-adds for one input.
        file_bytes: of its weights.
    """

    loss: float | None
    accuracy: float | None
    perplexity: float | None
    kl: float | None
    cosine: float | None
    accuracy_train: float | None
    accuracy_validation: float | None
    perplexity_train: float | None
    perplexity_validation: float | None
    kl_validation: float | None
    cosine_validation: float | None
    loss_train: float | None
    loss_test: float | None
    loss_validation: float | None
    macs: int | None
    params: int | None
    file_bytes: int | None
    latency: list[LatencyRow]


class LayerRow(TypedDict):
    """A layer that could be pruned, or was skipped for a reason; rows are in forward order.

    Attributes:
        error: of the layer at its width, in units of the variance of the stream that it feeds.
        reselected: how many of the channels kept are not those of the layer's path; absent in older
            reports.
        kind: of its candidates, as in :class:`gfs_dist.pruning.structure.structure.Layer`; absent
            in older reports.
    """

    name: str
    channels: int
    kept: int
    error: float | None
    macs: int | None
    reason: str | None
    reselected: NotRequired[int | None]
    kind: NotRequired[str | None]


class Theory(TypedDict, total=False):
    """Lemma 1 for one path: its bound after each pick, or only the reason why there is none.

    Attributes:
        exact: whether the diameter was measured; else it is an upper bound.
    """

    bound: list[float]
    diameter_squared: float
    exact: bool
    first_loss: float
    dense_loss: float
    reason: str


class CheckpointRow(TypedDict):
    """A checkpoint of a training."""

    iteration: int | None
    loss: float | None
    accuracy: float | None
    accuracy_train: NotRequired[float | None]
    accuracy_validation: NotRequired[float | None]


class SeriesFacts(TypedDict):
    """A network of a series, dense or pruned.

    Attributes:
        loss, accuracy_train: over the data that was pruned on; accuracies are shares.
        accuracy: of the test split.
        accuracy_held_out: of the validation split, or the test split where there is none.
    """

    loss: float
    accuracy_train: float
    accuracy: float
    accuracy_held_out: float


class SeriesRow(SeriesFacts):
    """A checkpoint of a training: its network pruned to a fixed size, beside the dense one.

    Attributes:
        gain: what the pruned network's accuracy (that of the rule) rose since the row before.
        rise: what the best of it so far rose while training grew by the rule's factor.
        overlap: share of the picks' weight that the row before has too, 0 to 1.
        enough: whether the rule let training stop here, from this row and those before it.
    """

    iteration: int
    dense: SeriesFacts
    gain: float | None
    rise: float | None
    overlap: float | None
    enough: bool


class Saved(TypedDict):
    """Training after the checkpoint that was enough; ``share`` is of all iterations planned.

    ``seconds`` are as long as the iterations before took; None if that is not known.
    """

    iterations: int
    share: float
    seconds: float | None


class Advice(TypedDict):
    """Whether a network was trained enough to be pruned.

    Attributes:
        since: the first iteration that was enough; None if none was.
        rule: that decided, and what it is set to, in words.
        reason: what it found.
        planned: iterations that the training was to have.
        saved: what ends with ``since``; None if nothing does.
    """

    verdict: Verdict
    since: int | None
    rule: str
    reason: str
    planned: int
    saved: Saved | None
    series: list[SeriesRow]


class StreamFacts(TypedDict):
    """The repair of streams, which takes no labels.

    Attributes:
        samples: that weights were trained on.
        steps: of the optimiser.
        seconds: that they took; of a run that was resumed, since then.
    """

    samples: int
    steps: int
    seconds: float


class ResultRow(Measured):
    """One network that a run has made: pruned, trained or evaluated.

    Attributes:
        kept: distinct neurons, or channels summed over layers.
        accuracy_after: by stage that was done: cut, refit, streams, batch_norm, finetune.
        perplexity_after, kl_after, cosine_after: the same of networks of text.
        path, model: relative to the run folder.
        dense: the network that it was pruned from.
        layers: of a deep network; of one with two layers there are none.
        budget, sizing, difference: of a deep network: what was asked for, how widths were chosen,
            and the largest difference between outputs of the cut and the masked network.
        binds: the limit of which that network takes most; empty without limits.
        storage: of a deep network: what loads its folder, and the reason if a model of transformers
            is none for ``from_pretrained`` (see :func:`gfs_dist.networks.save`).
        streams: of a deep network whose streams were repaired.
        steps, stop_reason, evaluated_share, theory, verified: of a two-layer network's search.
        accuracy_before, checkpoints: of a network that was trained on.
        run, values: of a comparison: the run that has made it, and its values of the keys that
            are compared.
    """

    name: str
    iteration: int | None
    objective: str | None
    kept: int | None
    path: str | None
    model: str | None
    accuracy_after: NotRequired[dict[str, float | None]]
    perplexity_after: NotRequired[dict[str, float | None]]
    kl_after: NotRequired[dict[str, float | None]]
    cosine_after: NotRequired[dict[str, float | None]]
    picks_sha256: NotRequired[str | None]
    dense: NotRequired[Measured]
    layers: NotRequired[list[LayerRow]]
    steps: NotRequired[int]
    stop_reason: NotRequired[str | None]
    evaluated_share: NotRequired[float | None]
    theory: NotRequired[Theory]
    verified: NotRequired[bool]
    budget: NotRequired[str]
    sizing: NotRequired[dict[str, Any]]
    binds: NotRequired[str]
    difference: NotRequired[float]
    storage: NotRequired[dict[str, str]]
    streams: NotRequired[StreamFacts]
    accuracy_before: NotRequired[float | None]
    checkpoints: NotRequired[list[CheckpointRow]]
    run: NotRequired[str]
    values: NotRequired[dict[str, Any]]


class Report(TypedDict):
    """What ``report.json`` holds.

    Attributes:
        job: the command that wrote it; ``comparison`` of several runs, as those of a sweep.
        dense: of the last checkpoint.
        results: of a benchmark or an experiment, its own rows as they are.
        notes: sentences for the summary.
        error: that ended a run which failed or was stopped.
        experiment, preset, data: of ``gfs reproduce``; data are rows by name that plots show.
        tables: rows by title, of a benchmark or an experiment.
        compares, keys: of a comparison: the command of its runs, and the keys that tell them apart.
        advice: of a job that judges a training.
        files: SHA-256 by the name of each file that is computed from.
        sha256: of this record without this key.
    """

    format: int
    job: str
    status: Status
    results: list[ResultRow]
    dense: NotRequired[Measured | None]
    timing: NotRequired[Timing]
    faults: NotRequired[list[FaultRow]]
    notes: NotRequired[list[str]]
    machine: dict[str, Any]
    versions: dict[str, str]
    error: NotRequired[str]
    command: NotRequired[str]
    suite: NotRequired[str]
    experiment: NotRequired[str]
    preset: NotRequired[str]
    data: NotRequired[dict[str, list[dict[str, Any]]]]
    tables: NotRequired[dict[str, list[dict[str, Any]]]]
    compares: NotRequired[str]
    keys: NotRequired[list[str]]
    advice: NotRequired[Advice]
    files: NotRequired[dict[str, str]]
    sha256: NotRequired[str]


class PathFile(TypedDict):
    """The greedy path of one search: ``paths/RESULT.json``, or ``paths/RESULT/LAYER.json``.

    Attributes:
        neurons: candidates: neurons, or the channels of a layer.
        samples: that the loss is a mean over.
        weights: rule of the step weights.
        picks, loss, step_sizes, gap: one a step; ``loss[k]`` is the loss after pick ``k + 1``.
        coefficients: of all candidates after the last pick; None where weights are refitted.
        inputs: fingerprints, by name, of what the search depends on.
        layer: that was searched, in a deep network.
        unit: what losses are divided by to compare layers.
    """

    format: int
    neurons: int
    samples: int
    objective: str
    weights: str
    dense_loss: float | None
    picks: list[int]
    loss: list[float]
    step_sizes: list[float]
    gap: list[float | None]
    coefficients: list[float] | None
    stop_reason: str | None
    inputs: dict[str, str]
    layer: NotRequired[str]
    unit: NotRequired[float]


Paths = Mapping[str, Mapping[str, PathFile]]
"""Path files of a run, by result and by layer; a network with two layers has a single one."""

COMPARISON = "comparison"
"""``job`` of a report on several runs."""

CLAIMS = "claims of the paper"
"""Title of the table of an experiment that says what became of them."""

OWN_ROWS = ("benchmark", "reproduce")
"""Jobs whose results are rows of their own, not networks."""

_EMPTY_REPORT: Mapping[str, Any] = {
    "format": FORMAT,
    "status": "finished",
    "dense": None,
    "results": [],
    "timing": {},
    "faults": [],
    "notes": [],
    "machine": {},
    "versions": {},
    "tables": {},
    "files": {},
}
_EMPTY_RESULT: Mapping[str, Any] = {
    "name": "result",
    **dict.fromkeys(("iteration", "objective", "kept", "loss", "accuracy", "macs", "params")),
    **dict.fromkeys(("accuracy_train", "accuracy_validation")),
    **dict.fromkeys(("loss_train", "loss_test", "loss_validation")),
    **dict.fromkeys(("perplexity", "kl", "cosine")),
    **dict.fromkeys(("file_bytes", "path", "model", "picks_sha256", "stop_reason")),
    "evaluated_share": None,
    "accuracy_after": {},
    "dense": {},
    "latency": [],
    "layers": [],
    "theory": {},
}
_EMPTY_LAYER = dict.fromkeys(("kept", "error", "macs", "reason"))
_EMPTY_FAULT = dict.fromkeys(FaultRow.__annotations__)

_EMPTY_PATH: Mapping[str, Any] = {
    **dict.fromkeys(("neurons", "samples", "weights", "dense_loss", "coefficients", "stop_reason")),
    "picks": [],
    "loss": [],
}


def read_report(content: Mapping[str, Any]) -> Report:
    """``report.json`` as any version wrote it, with what it lacks filled in.

    Args:
        content: stays as it is.

    Returns:
        every key that is used without asking whether it is there, but ``job``, which a folder
        without a report has not. Rows of jobs in :data:`OWN_ROWS` are left as they are.
    """
    report = _filled(content, _EMPTY_REPORT)
    ranks = report["timing"].get("ranks") or []
    ranks = [_filled(row, {"rank": place}) for place, row in enumerate(ranks)]
    report["timing"] = {**report["timing"], "ranks": ranks}
    report["faults"] = [_filled(row, _EMPTY_FAULT) for row in report["faults"]]
    if report.get("job") not in OWN_ROWS:
        report["results"] = [_result_row(row) for row in report["results"]]
    return cast(Report, report)


def read_path(content: Mapping[str, Any]) -> PathFile:
    """A path file as any version wrote it; see :func:`read_report`.

    ``step_sizes``, ``gap`` and ``inputs`` are not filled in: only a search that continues from the
    file needs them, and checks them.
    """
    return cast(PathFile, _filled(content, _EMPTY_PATH))


def _result_row(content: Mapping[str, Any]) -> dict[str, Any]:
    row = _filled(content, _EMPTY_RESULT)
    row["layers"] = [_filled(layer, _EMPTY_LAYER) for layer in row["layers"]]
    return row


def _filled(content: Mapping[str, Any], empty: Mapping[str, Any]) -> dict[str, Any]:
    """What is there, and ``empty`` for what is not, or is null."""
    missing = {key: copy.copy(value) for key, value in empty.items() if content.get(key) is None}
    return {**content, **missing}
