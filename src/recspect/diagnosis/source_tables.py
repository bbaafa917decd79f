"""Sources whose rows come as Arrow tables, some at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import pyarrow as pa

from recspect.diagnosis import source_arrow
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import ROWS, Source, require_request


class TableSource(Source):
    """A source that only has to say how its tables are read."""

    @abstractmethod
    def read_tables(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """These columns, in the order of the rows, about so many rows at a time."""

    def batches(self, columns: Sequence[str] | None = None, *, rows: int = ROWS, together: str | None = None) -> Iterator[Batch]:
        wanted = require_request(self, columns, rows, together)
        shown = wanted if columns is None else tuple(dict.fromkeys(columns))
        return source_arrow.to_batches(self.read_tables(wanted, rows), shown=shown, rows=rows, together=together, count=None, name=self.name)


__all__ = ["TableSource"]
