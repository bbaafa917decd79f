"""A ranking model in ONNX Runtime."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recspect.errors import MissingExtraError, SubjectError


class _Positional(nn.Module):
    """Fields one by one, as ONNX has them."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Tensor:
        return self.model(dict(zip(self.names, values, strict=True)))


def make_session(model: nn.Module, sample: Mapping[str, Tensor], *, threads: int = 1) -> Any:
    """A session of ONNX Runtime for a model of ours.

    Args:
        model: In evaluation mode.
        sample: Field to tensor of one row.
        threads: That one call may use.

    Raises:
        MissingExtraError: ONNX Runtime or onnx is not installed.
        SubjectError: The model cannot be exported.
    """
    try:
        import onnx  # noqa: F401 - the exporter writes with it
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(error.name or "onnxruntime", extra="onnx", purpose="Ranking by ONNX Runtime") from None
    names = list(sample)
    buffer = io.BytesIO()
    # Two rows, so that no dimension of size 1 is taken for one that is always 1.
    rows = tuple(torch.cat([tensor, tensor]) for tensor in sample.values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter that needs no further library calls itself old
            torch.onnx.export(_Positional(model, names), rows, buffer, input_names=[f"field{i}" for i in range(len(names))], output_names=["raw"],
                              dynamic_axes={**{f"field{i}": {0: "rows"} for i in range(len(names))}, "raw": {0: "rows"}}, opset_version=17, dynamo=False)
    except (RuntimeError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        raise SubjectError(f"the model cannot be exported to ONNX: {error!s:.300}", hint="use the backend torch") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    return session, names


def run_session(session: Any, inputs: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """What the model's `forward` gives, shape (rows,)."""
    runtime, names = session
    used = {entry.name for entry in runtime.get_inputs()}  # what the model does not read is no input of the graph
    fed = {f"field{i}": inputs[name].numpy() for i, name in enumerate(names) if f"field{i}" in used}
    found: NDArray[np.float64] = runtime.run(None, fed)[0].astype(np.float64)
    return found
