"""TensorBoard: event files under `logdir/<run>`, for `tensorboard --logdir`.

Scalars: every series. Custom scalars: training, validation and test loss in one chart. Histograms: our bins as they are, in
float64. HParams: settings, and the measures by which runs are compared. Text: verdict, findings, tables. Images: charts.
Report and findings lie beside the event files.
"""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Report
from recspect.diagnosis.mirror import HistogramRow, StepRow
from recspect.errors import MissingExtraError
from recspect.sinks.sink import (
    RunCard,
    Sink,
    finding_markdown,
    findings_markdown,
    finite_edges,
    table_markdown,
    tag,
    worst_by_code,
)

SUFFIX = ".recspect"
"""End of the names of our event files, so that a run that is sent again replaces its own and nothing else."""


class TensorBoard(Sink):
    """Event files of one run.

    Args:
        logdir: Folder of all runs; this one gets `logdir/<run id>`.
    """

    name = "tensorboard"

    def __init__(self, logdir: str | Path) -> None:
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            raise MissingExtraError("tensorboard", extra="tensorboard", purpose="Sending to TensorBoard") from None
        self.logdir = Path(logdir)
        self.folder = self.logdir
        self._writer: Any = None

    def open(self, run: RunCard) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = self.logdir / run.id
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            old.unlink()
        self._writer = EventFileWriter(str(self.folder), flush_secs=5, filename_suffix=SUFFIX)
        self._hyperparameters(run)
        self._loss_chart()
        if run.command:
            self._text("run", f"Made by `{run.command}` ({run.created}).")

    def scalars(self, rows: Sequence[StepRow]) -> None:
        for row in rows:
            self._value(row.step, tag=tag(row.series, row.place), simple_value=row.value)

    def histograms(self, rows: Sequence[HistogramRow]) -> None:
        from tensorboard.plugins.histogram.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        for row in filter(finite_edges, rows):
            bins = np.column_stack([row.edges[:-1], row.edges[1:], row.counts]).astype(np.float64)  # left, right, count
            name = tag(row.series, row.place)
            self._value(row.step, tag=name, tensor=make_tensor_proto(bins), metadata=create_summary_metadata(name, ""))

    def table(self, name: str, table: RankedTable) -> None:
        self._text(f"tables/{name}", table_markdown(table))

    def picture(self, name: str, png: bytes, caption: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

        width, height = struct.unpack(">II", png[16:24])  # the header of a PNG
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._value(0, tag=name, image=image, metadata=SummaryMetadata(summary_description=caption))

    def findings(self, report: Report) -> None:
        self._text("findings", findings_markdown(report))
        for code, finding in worst_by_code(report).items():
            self._text(f"findings/{code}", finding_markdown(finding))

    def artefact(self, path: Path) -> None:
        shutil.copyfile(path, self.folder / path.name)
        if path.name == "report.html":
            self._text("report", f"The full report is the file `{self.folder / path.name}`. Open it in a browser.")

    def flush(self) -> None:
        self._writer.flush()

    def close(self, status: str) -> None:
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        outcome = api_pb2.STATUS_SUCCESS if status == "finished" else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=outcome, end_time_secs=time.time())
        self._hparams_plugin(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))
        self._writer.close()

    @property
    def where(self) -> str:
        return f"tensorboard --logdir {self.logdir}"

    def _value(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(**content)])))

    def _text(self, name: str, markdown: str) -> None:
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        self._value(0, tag=name, tensor=make_tensor_proto(markdown.encode()), metadata=create_summary_metadata(name, ""))

    def _hyperparameters(self, run: RunCard) -> None:
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

        settings = {key: value for key, value in run.settings.items() if isinstance(value, (bool, int, float, str))}
        kinds = {bool: api_pb2.DATA_TYPE_BOOL, int: api_pb2.DATA_TYPE_FLOAT64, float: api_pb2.DATA_TYPE_FLOAT64,
                 str: api_pb2.DATA_TYPE_STRING}
        experiment = api_pb2.Experiment(
            hparam_infos=[api_pb2.HParamInfo(name=key, type=kinds[type(value)]) for key, value in settings.items()],
            metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=measure)) for measure in run.measures])
        self._hparams_plugin(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))
        for value in summary_v2.hparams_pb(settings, trial_id=run.id).value:
            self._value(0, tag=value.tag, metadata=value.metadata, tensor=value.tensor)

    def _hparams_plugin(self, name: str, data: Any) -> None:
        from tensorboard.plugins.hparams import metadata

        self._value(0, tag=name, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)

    def _loss_chart(self) -> None:
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        charts = [layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                  for title, tags in (("loss by part", ["^loss/"]), ("AUC by part", ["^auc/"]), ("update / weights", ["^update_ratio/"]))]
        layout = layout_pb2.Layout(category=[layout_pb2.Category(title="recspect", chart=charts)])
        self._value(0, tag=metadata.CONFIG_SUMMARY_TAG, tensor=make_tensor_proto(layout.SerializeToString()),
                    metadata=metadata.create_summary_metadata())
