"""``gfs_dist.prune``: any network, layer by layer."""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.api.select import runtime_spec
from gfs_dist.errors import InputError
from gfs_dist.files.scratch_folder import ScratchFolder, sigterm_unwinds
from gfs_dist.networks.graph.tensors import named_tensors
from gfs_dist.networks.measure.inputs import Call
from gfs_dist.pruning.calibration.batches import CLASS_NUMBERS
from gfs_dist.pruning.cut import CutResult, Repairs, cut, layer_rows, picks_sha256
from gfs_dist.pruning.pruner import PROBLEMS, LayerPath, Pruner, Settings
from gfs_dist.pruning.repair import STREAM_STEPS
from gfs_dist.pruning.repair.fit_rule import AUTO, TARGETS
from gfs_dist.pruning.repair.stream_training import StreamSpec
from gfs_dist.pruning.structure.shrink import shrink
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import choose_widths
from gfs_dist.pruning.widths.feasible import check_feasible
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.selection.step_sizes import WEIGHTS


def prune(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    budget: Mapping[str, Any],
    call: Call | None = None,
    output: str | int | Callable[[Any], Any] | None = None,
    objective: str = "least_squares",
    weights: str = "uniform",
    replacement: bool = False,
    coupled: bool = False,
    target: str = "auto",
    candidates: int | None = None,
    fold: bool = True,
    refit: bool = True,
    reselect: bool | None = None,
    streams: bool = False,
    stream_steps: int = STREAM_STEPS,
    batch_norm: bool | None = None,
    seed: int = 0,
    workers: int = 1,
    runtime: str = "none",
    device: str = "auto",
) -> Pruned:
    """A smaller network that computes nearly the same.

    Every layer's channels are ordered by greedy forward selection, from its consumers' second
    moments over the batches; widths are then chosen for the budget over all layers together, the
    network is cut, and every layer after a cut fitted again by least squares.

    Args:
        model: any; nothing of it is modified.
        batches: what it is called with, tensors or numpy arrays: inputs, pairs of inputs and
            labels, dicts of keyword arguments (``labels`` are labels), tuples of several inputs,
            lists of images of one shape; read once, kept in files. Labels are class numbers:
            integers (N,) from 0 to C - 1 for outputs (N, C). ``fisher``, ``network_loss`` and a
            budget by ``tolerance`` need them; without them loss and accuracy are not measured,
            and a warning says so where something else came in their place (targets of
            regression, masks, maps of classes).
        budget: ``{"macs": 0.5}``, ``params``, ``latency``, ``memory`` (shares of the dense
            network's), or several of them: all hold; or one of ``keep`` (share of each layer's
            channels), ``widths``, ``tolerance``. With ``round_to``, with ``batch`` for latency and
            memory, with ``uniform`` (True: the same width in all layers of one kind and size), and
            with ``trials``, how many networks are cut and measured to share widths out.
        call: ``call(model, batch) -> outputs``, where a batch goes through the model otherwise.
        output: which of several outputs counts: its key, its place, or a function of the outputs;
            None: every floating tensor in them.
        objective: ``least_squares``, ``layer_output``, ``fisher``, ``network_loss``.
        weights: ``uniform`` (the paper's) or ``line_search``.
        replacement: whether a channel may be picked again.
        coupled: prune residual widths too.
        target: of the refit: ``stream``, the residual stream after the block, ``output``, that of
            the layer, ``own``, what dense weights make of the pruned network's inputs, ``blend``;
            ``auto``: the stream, or, with attention, what fits best on samples set aside.
        candidates: ``network_loss``: candidates scored at each step; None for all.
        fold, refit, reselect, streams, batch_norm: the repairs. ``reselect``: channels are picked
            again while layers are fitted, on what the pruned layers before make; None: with
            ``least_squares`` where layers are fitted. ``streams``: all weights are trained, without
            labels, towards the dense network's streams, for ``stream_steps`` steps of 128 samples,
            which are augmented if they are images of three colours. Batch norms are measured again
            by default only where nothing is fitted.
        seed: of mini-batches and candidates.
        workers, runtime, device: ranks that share the work; kills are survived.

    Returns:
        The smaller network, its report, and a way to other sizes.

    Raises:
        ValueError, TypeError: names the argument, what was found and what is accepted.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: found {type(model).__name__}, accepted a torch.nn.Module")
    for name, found, accepted in (
        ("objective", objective, tuple(PROBLEMS)),
        ("weights", weights, tuple(WEIGHTS)),
        ("target", target, (AUTO, *TARGETS)),
    ):
        if found not in accepted:
            raise InputError(f"{name}: found {found!r}, accepted {', '.join(accepted)}")
    fixed: dict[str, tuple[object, object]] = {}
    if objective == "least_squares":
        fixed |= {"weights": (weights, "uniform"), "replacement": (replacement, False)}
    if objective != "network_loss":
        fixed["candidates"] = (candidates, None)
    for name, (given, only) in fixed.items():
        if given != only:
            raise InputError(f"{name}: found {given!r}, accepted {only!r} with {objective!r}")
    trained = StreamSpec(stream_steps, seed) if streams else None
    repairs = Repairs(fold, refit, batch_norm, trained, reselect)
    _check_repairs(repairs, objective, stream_steps)
    wanted = Budget.parse(budget)
    settings = Settings(
        objective=objective,
        weights=weights,
        replacement=replacement,
        coupled=coupled,
        target=target,
        candidates=candidates,
        seed=seed,
    )
    spec = runtime_spec(runtime, workers, device)
    select = output if callable(output) or output is None else OutputPart(output)
    with sigterm_unwinds():
        scratch = ScratchFolder("prune")
        try:
            with open_runtime(spec) as ranks:
                pruner = Pruner.prepare(
                    model, batches, settings, ranks, scratch.path / "workspace", call, select
                )
                check_feasible(pruner, wanted)
                if found := pruner.workspace.instead:
                    warnings.warn(
                        f"batches: found {found}, accepted are {CLASS_NUMBERS}; loss and accuracy "
                        "are not measured",
                        stacklevel=2,
                    )
                if streams and not pruner.has_streams:
                    raise InputError(
                        "streams: found True, accepted False with this network: no layer whose "
                        "output could be compared with the dense one's"
                    )
                pruner.search()
                source = _Source(model, pruner, spec, repairs)
                pruned = source.cut(wanted)
        except BaseException:
            scratch.close()
            raise
        weakref.finalize(source, scratch.close)
        return pruned


FEW = 10
"""Samples a coefficient, below which a warning is given."""


@dataclass(frozen=True)
class OutputPart:
    """Takes one of several outputs by its key or place."""

    key: str | int

    def __call__(self, outputs: Any) -> Any:
        try:
            return outputs[self.key]
        except (KeyError, IndexError, TypeError) as error:
            keys = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise InputError(f"output: found {self.key!r}, accepted one of {keys}") from error


def _check_repairs(repairs: Repairs, objective: str, stream_steps: int) -> None:
    if repairs.reselect and not (repairs.refit and objective == "least_squares"):
        raise InputError(
            "reselect: found True, accepted with objective='least_squares' and refit=True only"
        )
    if stream_steps < 1:
        raise InputError(f"stream_steps: found {stream_steps}, accepted 1 or more")


@dataclass(frozen=True)
class Pruned:
    """A smaller network and where it comes from.

    Attributes:
        model: of the class that was given, in its mode, on its device.
        report: sizes, loss, accuracy after each step (on the batches; None without class
            numbers), and a row for each layer.
    """

    model: nn.Module
    report: dict[str, Any]
    _source: _Source

    @property
    def paths(self) -> dict[str, LayerPath]:
        """By layer the channels in order, and the error after each."""
        return self._source.pruner.paths

    def cut(self, budget: Mapping[str, Any]) -> Pruned:
        """Another size from the same paths."""
        return self._source.again(Budget.parse(budget))

    def save(
        self,
        folder: Path | str,
        *,
        factory: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """Write ``architecture.json``, ``model.safetensors`` and ``report.json``; read the network
        again by :func:`gfs_dist.load`.

        Models of transformers and timm are made again by these packages, others from recorded
        steps where that is possible, else by ``factory``.

        Args:
            folder: its parent exists.
            factory, kwargs: ``package.module:function`` that makes the dense network, and its
                arguments, as JSON has them; :func:`gfs_dist.load` has to be told ``factory`` too.

        Returns:
            What loads it, also ``report["storage"]``: see :func:`gfs_dist.networks.save`. The
            folder of a model of transformers is one for ``from_pretrained`` too where its layers
            have the same widths.

        Raises:
            ValueError: there is no way to make this network again; gives the reasons.
        """
        pruner = self._source.pruner
        given = getattr(pruner.dense, "gfs_example", pruner.example)
        origin = {"model": "custom", "factory": factory, "kwargs": dict(kwargs or {})}
        self.report["storage"] = networks.save(
            folder,
            self.model,
            example=given,
            origin=origin if factory else None,
            builder=networks.builder_of(self._source.model),
        )
        text = json.dumps(self.report, indent=1)
        Path(folder, "report.json").write_text(text, encoding="utf-8")
        storage: dict[str, str] = self.report["storage"]
        return storage


@dataclass
class _Source:
    """The searched network behind all sizes; its files live as long as any of them."""

    model: nn.Module
    pruner: Pruner
    spec: RuntimeSpec
    repairs: Repairs
    sizes: int = 0

    def again(self, budget: Budget) -> Pruned:
        """Cut with ranks of its own."""
        with open_runtime(self.spec) as ranks:
            self.pruner = replace(self.pruner, runtime=ranks)
            check_feasible(self.pruner, budget)
            return self.cut(budget)

    def cut(self, budget: Budget) -> Pruned:
        self.sizes += 1
        chosen = choose_widths(self.pruner, budget, quick=self.sizes > 1)
        made = cut(
            self.pruner,
            chosen.widths,
            self.repairs,
            name=f"cut_{self.sizes}",
            evaluate=lambda _, network: self._classify(network)[1],
        )
        measured = self._measure(made.network)
        report = {
            "objective": self.pruner.settings.objective,
            "kept": sum(chosen.widths.values()),
            **vars(chosen),
            "dense": self._measure(self.pruner.dense),
            **measured,
            "accuracy_after": made.accuracies(measured.get("accuracy")),
            "difference_from_masked": made.difference,
            "picks_sha256": picks_sha256(self.pruner),
            "layers": layer_rows(self.pruner, made, chosen.widths),
            "settings": asdict(self.pruner.settings),
        }
        if self.pruner.has_blocks and self.repairs.refit:
            found = report["samples_a_coefficient"] = self.pruner.samples_a_coefficient(
                chosen.widths
            )
            if found < FEW:
                warnings.warn(
                    f"batches: {found:.1f} tokens for each input of the widest layer that is "
                    f"fitted again; fewer than {FEW} fit the samples, not the network: give more",
                    stacklevel=3,
                )
        if self.pruner.compared_rules:
            compared = self.pruner.compared_rules
            report["fit"] = {**asdict(self.pruner.fit_rule), "compared": compared}
        if made.streams:
            report["streams"] = made.streams
        return Pruned(self._adopt(made), report, self)

    def _measure(self, network: nn.Module) -> dict[str, Any]:
        loss, accuracy = self._classify(network)
        return {
            "macs": networks.count_macs(network, self.pruner.example),
            "params": networks.count_params(network),
            "loss": loss,
            "accuracy": accuracy,
        }

    def _classify(self, network: nn.Module) -> tuple[float | None, float | None]:
        """Loss and accuracy on the batches; None without class numbers."""
        workspace = self.pruner.workspace
        return (
            networks.classify(network, workspace.batches()) if workspace.labelled else (None,) * 2
        )

    def _adopt(self, made: CutResult) -> nn.Module:
        """The network that was given, cut the same way and with the fitted weights."""
        smaller = shrink(self.model, self.pruner.structure, made.kept.candidates)
        own = named_tensors(smaller)
        with torch.no_grad():
            for name, tensor in named_tensors(made.network).items():
                # An expanded buffer cannot be written to, and no repair changes it.
                if name in own and not torch.equal(own[name], tensor.to(own[name])):
                    own[name].copy_(tensor)
        return smaller
