"""Trained transformers cut to several sizes, with controls in the same run, no fine-tuning.

python -m tools.records.transformers_quality NAME MODEL_DIR TEXT --work FOLDER
    [--keep 75% 50% 35%] [--layers REGEX] [--sequence 512] [--calibrate 4096] [--test 8192]

MODEL_DIR: a Hugging Face folder. TEXT: lines of sentences, tab-separated as in the STS benchmark
(encoders: cosine of mean-pooled embeddings to the dense ones), or running text (causal models:
perplexity). Shares are of the parameters of feed-forward neurons and heads that can be pruned, in
the layers whose names match. Finished cells lie in FOLDER; another call measures what is missing.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.networks.measure.inputs import Batch, real_rows
from gfs_dist.networks.models.layer_kinds import weight_matrix
from gfs_dist.pruning.calibration.staged_run import advance, make_stages
from gfs_dist.pruning.cut import picks_sha256
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.repair.fit_rule import FitRule
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.structure.structure import Layer, Skipped, Structure
from gfs_dist.pruning.widths.budget import Budget, uniform_widths
from gfs_dist.pruning.widths.choose import choose_widths
from gfs_dist.runtime import RuntimeSpec, open_runtime
from tools.records.record import Cell, Cells, keep, load_average

Texts = list[dict[str, Tensor]]

NOTES = (
    "measured widths: the product (widths by measured change of the output, the rule of fits "
    "measured on samples set aside); uniform: the same share of every layer, the same picks",
    "random, magnitude, FLAP + refit: their own units, uniform widths, refitted by the product's "
    "rule; FLAP + bias: the mean of what is removed goes into a bias, nothing is refitted "
    "(magnitude alone: nothing at all)",
    "FLAP's score: variance of an input times the squared norm of its column (arXiv 2312.11983), "
    "summed over a unit's columns; magnitude: norm of all weights of a unit",
)


class Task:
    """A model, its text, and what its quality is."""

    def __init__(self, options: argparse.Namespace) -> None:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
        config = transformers.AutoConfig.from_pretrained(options.model)
        self.causal = "CausalLM" in (config.architectures or [""])[0]
        kind = transformers.AutoModelForCausalLM if self.causal else transformers.AutoModel
        self.model: nn.Module = kind.from_pretrained(options.model).eval()
        read = self._rows if self.causal else self._sentences
        self.calibration, self.test = read(tokenizer, options)
        self.output = "logits" if self.causal else "last_hidden_state"
        self._dense = None if self.causal else [self._embedding(self.model, b) for b in self.test]

    def quality(self, run: Callable[[dict[str, Tensor]], Any]) -> float:
        """Perplexity, or mean cosine to the dense embeddings, of the test text."""
        if self._dense is not None:
            found = zip(self.test, self._dense, strict=True)
            cosines = [torch.cosine_similarity(self._pooled(run(b), b), d) for b, d in found]
            return float(torch.cat(cosines).double().mean())
        loss, count = 0.0, 0
        for batch in self.test:
            tokens = batch["input_ids"]
            logits = run(batch).logits[:, :-1].flatten(0, 1)
            loss += float(nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).double()) * (
                tokens[:, 1:].numel()
            )
            count += tokens[:, 1:].numel()
        return math.exp(loss / count)

    @staticmethod
    def _rows(tokenizer: Any, options: argparse.Namespace) -> tuple[Texts, Texts]:
        text = Path(options.text).read_text(encoding="utf-8")
        tokens = tokenizer(text, return_tensors="pt").input_ids[0]
        rows = tokens[: len(tokens) // options.sequence * options.sequence]
        rows = rows.view(-1, options.sequence)
        first, last = options.calibrate // options.sequence, options.test // options.sequence
        parts = rows[:first], rows[-last:]
        fitted, test = ([{"input_ids": row[None]} for row in part] for part in parts)
        return fitted, test

    @staticmethod
    def _sentences(tokenizer: Any, options: argparse.Namespace) -> tuple[Texts, Texts]:
        lines = Path(options.text).read_text(encoding="utf-8").splitlines()
        sentences = [sentence for line in lines for sentence in line.split("\t")[5:7]]
        random.Random(0).shuffle(sentences)

        def batches(some: list[str]) -> Texts:
            encoded = [
                tokenizer(some[i : i + 32], padding=True, truncation=True, return_tensors="pt")
                for i in range(0, len(some), 32)
            ]
            return [{k: b[k] for k in ("input_ids", "attention_mask")} for b in encoded]

        count, total = 0, 0
        while total < options.calibrate:
            total += len(tokenizer(sentences[count]).input_ids)
            count += 1
        return batches(sorted(sentences[:count], key=len)), batches(sentences[-600:])

    def _embedding(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self._pooled(model(**batch), batch)

    @staticmethod
    def _pooled(outputs: Any, batch: dict[str, Tensor]) -> Tensor:
        real = batch["attention_mask"][..., None].float()
        return (outputs.last_hidden_state * real).sum(1) / real.sum(1)


def only(structure: Structure, pattern: str) -> Structure:
    """The layers whose names match; the others stay whole."""
    layers = tuple(x for x in structure.layers if re.search(pattern, x.name))
    skipped = tuple(
        Skipped(x.name, x.num_candidates, "not asked for")
        for x in structure.layers
        if x not in layers
    )
    return Structure(layers, (*structure.skipped, *skipped))


def unit_parameters(pruner: Pruner) -> int:
    """Weights and biases of all units that can be pruned."""
    costs = pruner.costs
    each = {
        name: costs.dense("params") - costs.of("params", {name: count - 1})
        for name, count in pruner.channels.items()
    }
    return sum(each[name] * count for name, count in pruner.channels.items())


class Statistics:
    """Mean and variance of what each consumer reads in the dense network."""

    def __init__(self, pruner: Pruner) -> None:
        work, dense = pruner.workspace, pruner.dense
        self.mean: dict[str, Tensor] = {}
        self.variance: dict[str, Tensor] = {}
        sites = pruner.consumer_sites(pruner.structure.layers)
        names = frozenset(site.source for site in sites)
        [stage] = make_stages(dense, [names])
        sums: dict[str, list[Tensor]] = {}
        for chunk in range(work.num_chunks):
            x: Batch = work.x(chunk)
            results = advance(dense, stage, {dense.gfs_inputs[0]: x})
            for site in sites:
                rows = real_rows(results[site.source], x).flatten(0, -2).double()
                part = [rows.sum(0), rows.square().sum(0), torch.tensor(float(len(rows)))]
                before = sums.get(site.module)
                sums[site.module] = (
                    part if before is None else [a + b for a, b in zip(before, part, strict=True)]
                )
        for module, (total, squares, count) in sums.items():
            self.mean[module] = total / count
            self.variance[module] = squares / count - self.mean[module].square()


def scores(pruner: Pruner, layer: Layer, control: str, statistics: Statistics) -> Tensor:
    """Of the units of a layer by a control; more is kept."""
    if control == "random":
        generator = torch.Generator().manual_seed(len(layer.name) + layer.num_candidates)
        return torch.rand(layer.num_candidates, generator=generator)
    reader = layer.consumers[0]
    columns = weight_matrix(pruner.dense.get_submodule(reader.module)).detach().double()
    squares = columns.square().sum(0)
    if control == "FLAP":
        squares = squares * statistics.variance[reader.module]
        return torch.stack([squares[list(own)].sum() for own in reader.channels])
    total = torch.stack([squares[list(own)].sum() for own in reader.channels])
    for part in layer.producers:
        rows = weight_matrix(pruner.dense.get_submodule(part.module)).detach().double()
        own = rows.square().sum(1)
        total += torch.stack([own[list(channels)].sum() for channels in part.channels])
    return total


def control_kept(
    pruner: Pruner, control: str, widths: Mapping[str, int], statistics: Statistics
) -> KeptChannels:
    """The units of most score."""
    kept = {}
    for layer in pruner.structure.layers:
        order = scores(pruner, layer, control, statistics).argsort(descending=True)
        kept[layer.name] = tuple(sorted(order[: widths[layer.name]].tolist()))
    return KeptChannels(kept)


def with_bias(pruner: Pruner, kept: KeptChannels, statistics: Statistics) -> nn.Module:
    """The cut network whose consumers add the mean of what was removed."""
    small = pruner.cut(kept)
    for layer in pruner.structure.layers:
        reader = layer.consumers[0]
        lost = reader.of(sorted({*range(layer.num_candidates)} - {*kept.candidates[layer.name]}))
        columns = weight_matrix(pruner.dense.get_submodule(reader.module)).detach().double()
        bias = (columns[:, lost] @ statistics.mean[reader.module][lost]).float()
        small.get_submodule(reader.module).register_forward_hook(partial(_add, bias))
    return small


def _add(bias: Tensor, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output + bias


def runner(network: Any) -> Callable[[dict[str, Tensor]], Any]:
    """How a followed network, or what is hooked in it, is called."""
    root: nn.Module = network.gfs_root
    return lambda batch: root(**batch)


def measure(task: Task, pruner: Pruner, cells: Cells, share: Fraction) -> list[Cell]:
    """All rows of one share."""
    statistics = Statistics(pruner)
    units, whole = unit_parameters(pruner), pruner.costs.dense("params")
    total = 1 - (1 - share) * Fraction(units, whole)
    uniform = uniform_widths(pruner.channels, share)
    name = f"{float(100 * share):g} %"

    def product(uniform_too: bool) -> Cell:
        began, spent = time.perf_counter(), time.process_time()
        if uniform_too:
            widths, reason = uniform, "uniform"
        else:
            chosen = choose_widths(pruner, Budget({"params": total}))
            widths, reason = chosen.widths, chosen.reason
        kept = pruner.keep(widths, fold=False)
        network, _ = pruner.refit(kept, f"cut_{name}_{uniform_too}".replace(" ", ""))
        cost = {"cpu_s": time.process_time() - spent, "wall_s": time.perf_counter() - began}
        cut = task.quality(runner(pruner.cut(kept)))
        found = {"quality": task.quality(runner(network)), "before_refit": cut}
        params = pruner.costs.of("params", widths)
        return {
            **found,
            "units": 1 - (whole - params) / units,
            **cost,
            "widths": str(widths),
            "reason": reason,
        }

    def control(kind: str, repair: str) -> Cell:
        kept = control_kept(pruner, kind, uniform, statistics)
        if repair == "bias":
            network = with_bias(pruner, kept, statistics)
        elif repair == "refit":
            network, _ = pruner.refit(kept, f"{kind}_{name}".replace(" ", ""))
        else:
            network = pruner.cut(kept)
        return {"quality": task.quality(runner(network)), "units": float(share)}

    makers: dict[str, Callable[[], Cell]] = {
        "measured widths": partial(product, False),
        "uniform widths": partial(product, True),
        "random + refit": partial(control, "random", "refit"),
        "magnitude + refit": partial(control, "magnitude", "refit"),
        "FLAP + refit": partial(control, "FLAP", "refit"),
        "FLAP + bias": partial(control, "FLAP", "bias"),
        "magnitude": partial(control, "magnitude", ""),
    }
    return [
        {"kept": name, "by": by, **cells.once(f"{name}/{by}", make)} for by, make in makers.items()
    ]


def main() -> None:
    """Measure what is not there yet, and keep all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for argument in ("name", "model", "text"):
        parser.add_argument(argument)
    parser.add_argument("--work", required=True)
    parser.add_argument("--keep", nargs="+", default=["75%", "50%", "35%"])
    parser.add_argument("--layers", default="")
    parser.add_argument("--label", default="", help="of the model, in the record")
    for argument, default in (("sequence", 512), ("calibrate", 4096), ("test", 8192)):
        parser.add_argument(f"--{argument}", type=int, default=default)
    options = parser.parse_args()
    task = Task(options)
    facts = {key: vars(options)[key] for key in ("layers", "sequence", "calibrate", "test")}
    Path(options.work).mkdir(parents=True, exist_ok=True)
    cells = Cells(Path(options.work) / "cells.json", facts)
    spec = RuntimeSpec(kind="none", device="cpu")
    with ScratchFolder("record") as folder, open_runtime(spec) as runtime, torch.no_grad():
        from gfs_dist.api.prune import OutputPart

        began = time.perf_counter()
        pruner = Pruner.prepare(
            task.model,
            task.calibration,
            Settings(),
            runtime,
            folder / "work",
            None,
            OutputPart(task.output),
        )
        pruner.structure = only(pruner.structure, options.layers)
        prepared = time.perf_counter() - began
        pruner.search()
        searched = time.perf_counter() - began - prepared
        rule = cells.once("rule", lambda: _rule(pruner))
        pruner.rule = FitRule(rule["target"], rule["damping"])
        dense = cells.once("dense", lambda: {"quality": task.quality(runner(pruner.dense))})
        shares = [Budget.parse({"keep": share}).shares["keep"] for share in options.keep]
        rows = [{"kept": "100 %", "by": "dense", **dense}]
        for share in shares:
            rows += measure(task, pruner, cells, share)
        layers = len(pruner.channels)
        tokens = sum(_real(batch) for batch in task.calibration)
        notes = [
            f"{options.label or type(task.model).__name__}: {layers} layers of units; quality is "
            + ("perplexity" if task.causal else "mean cosine to the dense embedding"),
            f"{tokens:,} tokens of calibration, others for the test; prepared in {prepared:.1f} s, "
            f"searched in {searched:.1f} s ({searched / layers:.2f} s a layer)",
            f"rule of fits: {rule['target']}, damping {rule['damping']}; compared: "
            f"{rule['compared']}; picks {picks_sha256(pruner)[:12]}",
            *NOTES,
            f"{torch.get_num_threads()} threads; {load_average()}",
        ]
    shown = [{k: v for k, v in row.items() if k not in ("source", "reason")} for row in rows]
    command = shlex.join(["python", "-m", "tools.records.transformers_quality", *_plain(sys.argv)])
    keep(options.name, command, shown, notes, by="kept")


def _rule(pruner: Pruner) -> Cell:
    from gfs_dist.pruning.widths.fit_choice import choose_fit_rule

    half = uniform_widths(pruner.channels, Fraction(1, 2))
    rule, compared = choose_fit_rule(pruner, half)
    words = "; ".join(f"{r['target']} {r['damping']:g}: {r['loss']:.4f}" for r in compared)
    return {"target": rule.target, "damping": rule.damping, "compared": words}


def _real(batch: dict[str, Tensor]) -> int:
    return int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())


def _plain(argv: list[str]) -> list[str]:
    """Arguments without this machine's folders."""
    return [Path(part).name if part.startswith("/") else part for part in argv[1:]]


if __name__ == "__main__":
    main()
