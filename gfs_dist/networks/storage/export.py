"""Exports for other programs: ``torch.export`` and ONNX, compared with the network itself.

They evaluate, on the CPU, for any number of rows.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from gfs_dist.errors import ConfigError, RunError, error_line
from gfs_dist.files import atomic
from gfs_dist.networks.storage.equality import inputs_of, outputs_of, plain_copy

TOLERANCE = 1e-4
"""Largest difference between outputs, in units of the largest output."""

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_onnx(key: str = "onnx") -> None:
    """Refuse to write ONNX where the packages that it takes are missing.

    Raises:
        ConfigError: names ``key``, the packages, and how to install them.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{key}: {', '.join(missing)} not installed: pip install 'gfs-dist[onnx]'"
        )


def export_program(
    network: nn.Module, example: Tensor | Sequence[Tensor], path: Path | str
) -> float:
    """Write a ``.pt2`` file, which ``torch.export.load`` reads without the network's code.

    Args:
        network: not modified; its dtype is kept.
        example: what ``forward`` takes, a tensor or several; rows first.

    Returns:
        the largest difference between outputs of the file and the network, in units of the
        largest output.

    Raises:
        RunError: the network cannot be exported, or the difference is above 1e-4.
        StorageError: the file cannot be written.
    """
    model, inputs = plain_copy(network), _several_rows(example)
    program = _program(model, inputs)
    program.example_inputs = None  # they would be pickled into the file
    content = io.BytesIO()
    with _exporting("torch.export"):
        torch.export.save(program, content)
        content.seek(0)
        found = torch.export.load(content).module()
    difference = _largest_difference("torch.export", model, found, inputs)
    atomic.write_bytes(path, content.getvalue())
    return difference


def export_onnx(network: nn.Module, example: Tensor | Sequence[Tensor], path: Path | str) -> float:
    """Write an ONNX file in float32 and run it with onnxruntime.

    Args, result and errors: as :func:`export_program`; a copy in float32 is exported.

    Raises:
        ConfigError: the extra ``onnx`` is not installed.
    """
    require_onnx()
    model = plain_copy(network).float()
    inputs = [x.float() if x.is_floating_point() else x for x in _several_rows(example)]
    program = _program(model, inputs)
    with _exporting("ONNX"):
        exported = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False)
        assert exported is not None
        content = exported.model_proto.SerializeToString()
    difference = _largest_difference("ONNX", model, _session(content), inputs)
    atomic.write_bytes(path, content)
    return difference


def _several_rows(example: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Inputs of at least two rows: of a single row the exporter fixes the number."""
    given = inputs_of(example)
    assert isinstance(given, list)
    return [torch.cat([x, x]) if len(x) == 1 else x for x in given]


def _program(model: nn.Module, inputs: list[Tensor]) -> ExportedProgram:
    shapes, rows = ShapesCollection(), Dim("rows")
    for x in inputs:
        shapes[x] = {0: rows}
    with _exporting("torch.export"):
        given = shapes.dynamic_shapes(model, tuple(inputs))
        return torch.export.export(model, tuple(inputs), dynamic_shapes=given)


def _session(content: bytes) -> Any:
    """A function that runs the file in onnxruntime, called as a network is."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [declared.name for declared in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, given)]

    return run


def _largest_difference(kind: str, model: nn.Module, found: Any, inputs: list[Tensor]) -> float:
    """Over the example, and over one row of it.

    Raises:
        RunError: it is above :data:`TOLERANCE`, or outputs are of another number or shape.
    """
    shares = [0.0]
    for rows in (inputs, [x[:1] for x in inputs]):
        wanted = [y for y in outputs_of(model, rows) if isinstance(y, Tensor)]
        exported = [y for y in outputs_of(found, rows) if isinstance(y, Tensor)]
        shapes = [[tuple(y.shape) for y in outputs] for outputs in (wanted, exported)]
        if shapes[0] != shapes[1]:
            raise RunError(f"{kind}: it gives outputs {shapes[1]}, the network {shapes[0]}")
        for one, two in zip(wanted, exported, strict=True):
            scale = float(one.abs().max()) or 1.0
            shares.append(float((one.double() - two.double()).abs().max()) / scale)
    for share in shares:
        if not share <= TOLERANCE:  # NaN too
            accepted = f"of the largest, accepted {TOLERANCE:.0e}"
            raise RunError(f"{kind}: outputs differ by {share:.1e} {accepted}")
    return max(shares)


@contextmanager
def _exporting(kind: str) -> Iterator[None]:
    """Drops the exporters' notes on deprecated and missing packages; errors become one line.

    Raises:
        RunError: any error of an exporter.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:  # exporters raise anything
        words = error_line(error)
        raise RunError(f"{kind}: the network cannot be exported: {words}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
