"""Name everything that can go wrong while training.

TrainerError
├── CodeError       `module:function` cannot be imported, called or trusted
├── ModelError      a model cannot be built, or does not match a vector or data set
├── DataError       a data set cannot be found, read or divided
├── BudgetError     another round would spend more privacy than the project allows
├── JournalError    a trainer's journal cannot be read, or another process uses it
└── TrainingError   training did not lead to a finite update

Messages name the file or value, the limit and the next step. `exit_code` is what a command that
fails with the error returns to the shell; `marketplace.terminal` lists the codes.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "CodeError",
    "DataError",
    "JournalError",
    "ModelError",
    "TrainerError",
    "TrainingError",
]


class TrainerError(Exception):
    """Base of all errors of the trainer."""

    exit_code = 2


class CodeError(TrainerError):
    """Code named as `module:function` cannot be imported, called or trusted."""


class ModelError(TrainerError):
    """A model cannot be built, or does not match a vector or a data set."""


class DataError(TrainerError):
    """A data set cannot be found, read or divided."""


class JournalError(TrainerError):
    """A trainer's journal cannot be read, or another process uses it."""


class BudgetError(TrainerError):
    """Another round would spend more privacy than the project allows."""


class TrainingError(TrainerError):
    """Training did not lead to a finite update."""

    exit_code = 1
