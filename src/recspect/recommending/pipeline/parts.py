"""Files of a recommender's folder: arrays and tables, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source_values import to_arrow
from recspect.errors import DataError, RunError
from recspect.files import write_bytes

REBUILD = "build the recommender anew, or restore the folder"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays by name in one safetensors file."""
    from safetensors.numpy import save

    write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """What `write_arrays` wrote.

    Raises:
        RunError: The file is missing, damaged, or lacks a name.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found: dict[str, NDArray[Any]] = load_file(path)
    except FileNotFoundError:
        raise RunError(f"the recommender lacks {path.name} in {path.parent}", hint=REBUILD) from None
    except (SafetensorError, ValueError, OSError) as error:
        raise RunError(f"{path} is damaged: {error!r:.200}", hint=REBUILD) from None
    if not set(names) <= set(found):
        raise RunError(f"{path} is damaged: it holds {sorted(found)}, expected {sorted(names)}", hint=REBUILD)
    return found


def write_table(path: Path, batch: Batch) -> None:
    """A batch as Parquet.

    Raises:
        DataError: A text that no file can hold.
    """
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(to_arrow(batch), sink, compression="zstd")
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise DataError(f"{path.name} cannot be written: {error}", hint="look for halves of surrogate pairs in ids and texts") from None
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> Batch:
    """What `write_table` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return Batch.from_arrow(pq.read_table(path))
    except FileNotFoundError:
        raise RunError(f"the recommender lacks {path.name} in {path.parent}", hint=REBUILD) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error!r:.200}", hint=REBUILD) from None
