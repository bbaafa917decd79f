"""Several labels from one model: a tower each, and the chance of what happens only after something else.

Shapes: B rows, T labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.models.config import ModelConfig
from recspect.models.layers import hidden_layers
from recspect.models.settings import Task


class Towers(nn.Module):
    """An MLP per label, (B, width) each, to what the model returns for it.

    A label y that is declared to happen only after another c has P(y) = P(c) P(y | c), and its tower gives the logit of P(y | c):
    P(y) is trained on all rows, so P(y | c) is not spoilt by being learned on rows with c alone (entire-space multi-task model).

    Args:
        width: Numbers per row and label.
        config: Labels, activation, dropout.
        hidden: Neurons of each hidden layer of a tower.

    Source: Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate", SIGIR 2018.
    """

    def __init__(self, width: int, config: ModelConfig, hidden: Sequence[int]) -> None:
        super().__init__()
        self.tasks = tasks_of(config)
        self.each = nn.ModuleList(hidden_layers(width, hidden, activation=config.activation, dropout=config.dropout) for _ in self.tasks)

    def forward(self, read: Sequence[Tensor], bias: Tensor) -> Tensor:
        """What the tower of each label reads, and the labels' biases (T,), to logits (of binary labels) and values (of graded ones), (B, T)."""
        raw = torch.cat([tower(rows) for tower, rows in zip(self.each, read, strict=True)], dim=1) + bias
        own = {task.label: task.mean + task.scale * raw[:, place] for place, task in enumerate(self.tasks)}
        return torch.stack([self._after_all(task, own) for task in self.tasks], dim=1)

    def _after_all(self, task: Task, own: Mapping[str, Tensor]) -> Tensor:
        """The label's own output, with the chances of all that must happen before it."""
        by_label, output = {each.label: each for each in self.tasks}, own[task.label]
        while task.after and task.after in by_label:
            task = by_label[task.after]
            output = both(output, own[task.label])
        return output


def tasks_of(config: ModelConfig) -> tuple[Task, ...]:
    """The labels of a model; one without a name where it was not made for several."""
    return config.tasks or (Task(label="", output=config.output, mean=config.output_mean, scale=config.output_scale),)


def both(one: Tensor, other: Tensor) -> Tensor:
    """The logit of the product of two probabilities, from their logits: -log(e^-a + e^-b + e^-(a + b)), with no probability in between that could be rounded to 0 or 1."""
    return -torch.logsumexp(torch.stack([-one, -other, -(one + other)]), dim=0)
