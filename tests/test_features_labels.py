"""From label columns to training targets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError
from recspect.features import encode_label
from recspect.features.labels import require_variation
from recspect.schema import Label


def encode(values, **settings) -> list[float]:
    return encode_label(Label(name="y", **settings), Batch.from_arrow(pa.table({"y": pa.array(values)}))).tolist()


@pytest.mark.parametrize(("values", "settings", "expected"), [
    ([0, 1, 1], {}, [0, 1, 1]),
    ([True, False], {}, [1, 0]),
    (["yes", "no", "yes"], {"positive": "yes"}, [1, 0, 1]),
    ([1, 2, 2], {"positive": 2}, [0, 1, 1]),
    ([1.0, 2.0], {"positive": "2"}, [0, 1]),
    (["1", "0"], {"positive": 1}, [1, 0]),
    ([True, False], {"positive": True}, [1, 0]),
    ([3.5, 4.0, 5.0], {"at_least": 4}, [0, 1, 1]),
    ([3.5, -1.0], {"kind": "graded"}, [3.5, -1.0]),
])
def test_values(values, settings, expected):
    assert encode(values, **settings) == expected


@pytest.mark.parametrize(("values", "settings", "message"), [
    ([0, 1, 2], {}, "holds 2, expected 0 and 1"),
    (["yes", "no"], {}, "holds categories such as"),
    ([0.0, None], {}, r"missing or not finite in 1 rows, first in row 1"),
    ([1.0, float("inf")], {"kind": "graded"}, "not finite"),
    (["yes", None], {"positive": "yes"}, "missing"),
    (["no", "never"], {"positive": "yes"}, "no row holds the positive value 'yes'"),
    (["a"], {"kind": "graded"}, "expected numbers"),
])
def test_errors(values, settings, message):
    with pytest.raises(DataError, match=message) as error:
        encode(values, **settings)
    assert error.value.hint


def test_a_constant_label_cannot_be_learned():
    label = Label(name="y")
    with pytest.raises(DataError, match="is 1 in all 3 training rows"):
        require_variation(label, np.ones(3), where="training")
    with pytest.raises(DataError, match="no training rows"):
        require_variation(label, np.ones(0), where="training")
    require_variation(label, np.array([0.0, 1.0]), where="training")
