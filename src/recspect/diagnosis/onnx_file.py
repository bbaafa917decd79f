"""A model in an ONNX file: its scores can be had, its inside cannot; so every question about scores, data and slices is answered, none about gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.subject import ScoreSubject, default_encode
from recspect.errors import DataError, MissingExtraError, SubjectError, listing


def onnx_subject(path: str | Path, *, fields: Sequence[str] = (), output: str = "", name: str = "") -> ScoreSubject:
    """The scoring model in an ONNX file.

    Args:
        path: The file.
        fields: Columns that are given to the model's inputs of the same names. Default: the names of the inputs.
        output: Which output is the score; default the first.
        name: What it is called in reports; default the file's name.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        DataError: No such file, or no ONNX model in it.
        SubjectError: Inputs or the output are not there.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", extra="onnx", purpose="Examining an ONNX file") from None
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no ONNX file at {path}", hint="check the path")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise DataError(f"{path} is not an ONNX model that onnxruntime can read: {error}", hint="export it again, with weights inside or beside it") from None
    inputs = {given.name: given.type for given in session.get_inputs()}
    outputs = [given.name for given in session.get_outputs()]
    fields = tuple(fields) or tuple(inputs)
    if missing := [given for given in inputs if given not in fields]:
        raise SubjectError(f"{path.name} takes {listing(tuple(inputs))}; no field is named {listing(missing)}",
                           hint="name the inputs when exporting: torch.onnx.export(..., input_names=[...])")
    if output and output not in outputs:
        raise SubjectError(f"{path.name} has no output {output!r}; it has {listing(outputs)}")
    encode = default_encode(tuple(inputs))

    def score(batch: Batch) -> Any:
        given = {key: value.numpy().astype(_dtype(inputs[key]), copy=False) for key, value in encode(batch).items()}
        return session.run([output or outputs[0]], given)[0]

    return ScoreSubject(score, fields=fields, name=name or path.name)


def _dtype(kind: str) -> Any:
    return {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(double)": np.float64,
            "tensor(bool)": np.bool_}.get(kind, np.float32)
