"""What a job tells, in TensorBoard or MLflow too; imported only where ``track=`` asks for one."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from gfs_dist.errors import ConfigError, RunError, first_line
from gfs_dist.records import Report
from gfs_dist.workflows.reporter import Passing, Reporter

if TYPE_CHECKING:
    from gfs_dist.files import RunFolder

EVERY_S = 1.0
"""Between two rows of a phase: a writer may ask a server for each."""

MAX_VALUE = 500


class Writer(Protocol):
    """Where numbers go."""

    def write(self, values: dict[str, float], step: int) -> None: ...
    def close(self, finished: bool) -> None: ...


class TensorBoard:
    """Event files in ``RUN/tensorboard``."""

    def __init__(self, folder: Path, values: dict[Any, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        lines = [f"{key}: {value}" for key, value in _flat(values).items()]
        self._writer.add_text("configuration", "\n\n".join(lines))

    def write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, finished: bool) -> None:
        self._writer.close()


class MLflow:
    """A run on the server of ``MLFLOW_TRACKING_URI``, else in ``RUN/mlflow.db``."""

    def __init__(self, folder: Path, values: dict[Any, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
        mlflow.set_experiment("gfs-dist")
        mlflow.start_run(run_name=folder.name)
        mlflow.log_params({key: value[:MAX_VALUE] for key, value in _flat(values).items()})

    def write(self, values: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics(values, step=step)

    def close(self, finished: bool) -> None:
        self._mlflow.end_run("FINISHED" if finished else "FAILED")


def tracked(run: Callable[[Any, Reporter], Report]) -> Callable[[Any, Reporter], Report]:
    """A job whose ``config.track`` is obeyed."""

    @functools.wraps(run)
    def tracking(config: Any, reporter: Reporter) -> Report:
        if config.track is None:
            return run(config, reporter)
        with Tracked(reporter, config) as listener:
            return run(config, listener)

    return tracking


class Tracked(Passing):
    """Passes everything on to ``reporter``; a writer gets the numbers of steps and tables."""

    def __init__(self, reporter: Reporter, config: Any) -> None:
        super().__init__(reporter)
        self._config = config
        self._writer: Writer | None = None
        self._phase = ""
        self._waiting: tuple[dict[str, float], int] | None = None
        self._written = 0.0

    def plan(self, lines: Sequence[str]) -> None:
        """Refuse, before anything is written, what cannot be tracked here.

        Raises:
            ConfigError: the package is not installed.
            PlannedOnly: as the reporter says; where a job is only planned nothing is needed.
        """
        name = self._config.track
        self._reporter.plan([*lines, f"track     {name}"])
        if util.find_spec(name) is None:
            raise ConfigError(f"track: found {name}, not installed here; pip install {name}")

    def run_folder(self, folder: RunFolder) -> None:
        """Open the writer.

        Raises:
            RunError: no server, or the package lacks what it needs.
        """
        self._reporter.run_folder(folder)
        name, values = self._config.track, dataclasses.asdict(self._config)
        writer = TensorBoard if name == "tensorboard" else MLflow
        try:
            self._writer = writer(folder.path, values)
        except Exception as error:
            raise RunError(f"track: {name} cannot be used: {first_line(error)}") from error
        folder.close_first(self)

    def phase(self, name: str, total: int | None = None) -> None:
        self._flush()
        self._phase = name
        self._reporter.phase(name, total)

    def step(self, done: int, loss: float | None = None, **facts: object) -> None:
        self._reporter.step(done, loss, **facts)
        self._waiting = _numbers(self._phase, {"loss": loss, **facts}), done
        if time.monotonic() - self._written >= EVERY_S:
            self._flush()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self._flush()
        self._reporter.table(title, columns, rows)
        for number, row in enumerate(rows):
            self._write(_numbers(title, dict(zip(columns, row, strict=True))), number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close(finished=kind is None)
        self._writer = None

    def _flush(self) -> None:
        """Write the last step that was told, if it is not yet."""
        if self._waiting is not None:
            self._write(*self._waiting)
            self._waiting, self._written = None, time.monotonic()

    def _write(self, values: dict[str, float], step: int) -> None:
        if self._writer is None or not values:
            return
        try:
            self._writer.write(values, step)
        except Exception as error:  # noqa: BLE001 - of a package that we do not know
            self._writer = None  # hours of work do not end with the server that shows them
            said = f"{self._config.track} takes no more numbers: {first_line(error)}"
            self._reporter.note(f"track: {said}")


def _numbers(title: str, values: dict[str, Any]) -> dict[str, float]:
    """Those of ``values`` that are numbers, by names that writers take."""
    return {
        f"{title}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _flat(values: dict[Any, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: str(value)}
    return found
