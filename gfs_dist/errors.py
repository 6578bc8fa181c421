"""All errors raised on purpose, drawn as a tree; each kind has an exit code.

GfsError                     1
+-- InputError               2   wrong usage, configuration or input (also a ValueError)
|   +-- ConfigError              a key or value of the configuration
|   +-- ShapeError               tensors that do not fit each other
|   +-- NonFiniteError           NaN or infinity; names neuron and sample
|   +-- DataError                a dataset that cannot be used
|   +-- CheckpointError          a checkpoint that cannot be read or does not fit
|   +-- RunFolderError           a run folder that exists, is foreign or has changed
|   +-- ClusterError             no Ray cluster, or one that cannot be used
+-- BudgetError              3   the budget cannot be met (also a ValueError)
+-- RunError                 1   the job failed (also a RuntimeError)
    +-- WorkersLostError         workers died faster than they could be replaced
    +-- PicksDifferError         a requested check found other picks
    +-- WorseError               a measurement is worse than its record
    +-- JobEndedError            a submitted job did not end well; its exit code is the job's
    +-- ClusterLostError         a cluster that stopped answering while a job was followed
    +-- StorageError             a file could not be written (disk full, no permission)
"""

from __future__ import annotations


class GfsError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class InputError(GfsError, ValueError):
    """Wrong input: the message names the key, the value found and the accepted ones."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key or value is unknown, of the wrong type or out of range."""


class ShapeError(InputError):
    """Tensors do not fit each other."""


class NonFiniteError(InputError):
    """NaN or infinity where numbers are needed."""


class DataError(InputError):
    """A dataset is missing, empty, one-class or malformed."""


class CheckpointError(InputError):
    """A checkpoint is missing, unreadable, unsafe or does not fit the network."""


class RunFolderError(InputError):
    """A run folder exists already, belongs to another configuration, or its inputs changed."""


class ClusterError(InputError):
    """No Ray cluster, or one that refuses this job or must not be used; gives a cure."""


class BudgetError(GfsError, ValueError):
    """The budget cannot be met; the message names the nearest one that can."""

    exit_code = 3


class RunError(GfsError, RuntimeError):
    """The job failed while it ran."""


class WorkersLostError(RunError):
    """Workers died faster than they could be replaced."""


class PicksDifferError(RunError):
    """Two searches that must agree picked differently."""


class WorseError(RunError):
    """A measured ratio is worse than its record by more than the margin."""


class JobEndedError(RunError):
    """A job on a cluster did not end well; the exit code is its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ClusterLostError(RunError):
    """A cluster stopped answering while a job on it was followed; the job's end is open."""


class StorageError(RunError):
    """A file could not be written."""


def first_line(error: BaseException) -> str:
    """The first line of a message from a library; the type of an error without a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def error_line(error: BaseException) -> str:
    """``TypeError: first line``, for errors of a user's code."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].removesuffix(": ")
