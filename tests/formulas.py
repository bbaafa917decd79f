"""Models that are a function of named numbers, for tests of explanations with hand-made values."""

import numpy as np
from torch import nn

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.subject import TorchSubject


class Formula(nn.Module):
    """A function of numeric fields, given in their order."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(*x.values())


def formula(function, names, *rows):
    """(subject, batch): the function of fields of these names, and these rows."""
    subject = TorchSubject(Formula(function), fields=list(names))
    return subject, Batch({name: np.array(column, dtype=float) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
