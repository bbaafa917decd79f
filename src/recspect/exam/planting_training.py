"""How faults of training and of served models are planted, by severity 0 (barely visible), 1 (typical), 2 (gross)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from recspect.exam.case import Case


def dead_layer(case: Case, severity: int) -> Case:
    """The biases of 95% of the units of the last hidden layer, of all, or of all units of all layers so low that they never fire (smooth units likewise)."""
    share, layers = ((0.95, 1), (1.0, 1), (1.0, 9))[severity]

    def kill(model: Any) -> None:
        import torch

        hidden = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][:-1]
        with torch.no_grad():
            for linear in hidden[::-1][:layers]:
                linear.bias[: round(share * len(linear.bias))] = -1000.0

    return replace(case, spoil=kill)


def learning_rate(case: Case, severity: int) -> Case:
    """Every learning rate 30, 100 or 300 times as high."""
    factor = (30, 100, 300)[severity]
    return case.with_settings(learning_rate=case.config.learning_rate * factor, table_learning_rate=case.config.table_learning_rate * factor)


def broken_batch(case: Case, severity: int) -> Case:
    """The labels of one, 3 or 10 steps of the last epoch's middle are the opposite of what they were: a file was read wrongly."""
    from recspect.training.epoch import order_of_rows

    label, size = case.columns.label, case.config.batch_rows
    epoch = case.config.maximum_epochs
    order = order_of_rows(case.train.rows, case.config.seed, epoch)
    first = len(order) // size // 2 * size
    hit = order[first:first + (1, 3, 10)[severity] * size]
    labels = case.train.numbers(label).astype(np.int64)
    labels[hit] = 1 - labels[hit]
    return replace(case.with_settings(patience_epochs=99), train=case.train.with_columns({label: labels}), keep_last=True)


def deep_stack(case: Case, severity: int) -> Case:
    """10, 12 or 16 narrow layers of smooth units on top of each other, without normalisation: with 8 the gradient still arrives."""
    return case.with_model(hidden=(32,) * (10, 12, 16)[severity], activation="silu", dropout=0.0)


def collapsed_table(case: Case, severity: int) -> Case:
    """All embedding tables of rank half the width, 2 or 1."""

    def flatten(model: Any) -> None:
        import torch

        with torch.no_grad():
            for table in _tables(model):
                width = table.shape[1]
                rank = (width // 2, 2, 1)[severity]
                left, sizes, right = torch.linalg.svd(table, full_matrices=False)
                sizes[rank:] = 0
                table.copy_(left @ torch.diag(sizes) @ right)

    return replace(case, spoil=flatten)


def many_epochs(case: Case, severity: int) -> Case:
    """4, 8 or 16 epochs at three times the rate of the tables, and the last one is kept."""
    epochs = (4, 8, 16)[severity]
    return replace(case.with_settings(maximum_epochs=epochs, patience_epochs=99, table_learning_rate=3 * case.config.table_learning_rate), keep_last=True)


def _tables(model: Any) -> list[Any]:
    """Weights of embedding tables wider than one."""
    return [parameter.data for name, parameter in model.named_parameters() if "table" in name and parameter.ndim == 2 and parameter.shape[1] > 3]
