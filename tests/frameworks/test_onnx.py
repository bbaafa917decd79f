"""An ONNX file: exported from a torch model, it scores alike and is judged by its scores; what needs gradients says why it cannot answer."""

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="onnxruntime is not in this environment: make test-frameworks builds one that has it")
pytest.importorskip("onnxscript", reason="onnxscript is not in this environment: make test-frameworks builds one that has it")

from movielens import FIELDS, SCHEMA, tables
from torch import nn

from recspect.diagnosis.onnx_file import onnx_subject
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import DataError, SubjectError
from recspect.examining.examination import examine

pytestmark = pytest.mark.filterwarnings("default")  # the exporter warns about its own parts


class Model(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        torch.manual_seed(0)
        self.vectors = nn.ModuleList(nn.Embedding(sizes[name], 4) for name in FIELDS)  # no names: `class` is a word of Python's
        self.top = nn.Sequential(nn.Linear(4 * len(FIELDS), 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, user_id, item_id, age, gender, occupation, release_year, genres):
        ids = (user_id, item_id, age, gender, occupation, release_year, genres)
        return torch.sigmoid(self.top(torch.cat([table(x) for table, x in zip(self.vectors, ids, strict=True)], 1))).squeeze(1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    _, _, test, sizes = tables()
    model = Model(sizes).eval()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    example = tuple(torch.from_numpy(np.asarray(test[name])[:8]) for name in FIELDS)
    torch.onnx.export(model, example, path, input_names=list(FIELDS), output_names=["score"], dynamo=True,
                      dynamic_shapes=tuple({0: torch.export.Dim("rows")} for _ in FIELDS), verbose=False)
    return model, path


def test_it_scores_like_the_model_it_was_made_from(exported):
    model, path = exported
    test = tables()[2].take(slice(0, 3_000))
    twin = TorchSubject(model, fields=FIELDS, forward=lambda m, x: m(*(x[name] for name in FIELDS)))
    assert np.abs(onnx_subject(path).score(test) - twin.score(test)).max() < 1e-6


def test_it_is_judged_by_its_scores_and_what_needs_its_inside_says_so(exported):
    train, _, test, _ = tables()
    report = examine(onnx_subject(exported[1]), test.take(slice(0, 3_000)), SCHEMA, reference=train.take(slice(0, 3_000)))
    assert [finding for finding in report.find("predictions.ranking_quality") if finding.estimate]
    assert all(finding.verdict.value == "UNKNOWN" for finding in report.find("training.dead_units"))


def test_wrong_files_and_names_are_told(exported, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(DataError, match="not an ONNX model"):
        onnx_subject(tmp_path / "broken.onnx")
    with pytest.raises(DataError, match="no ONNX file"):
        onnx_subject(tmp_path / "absent.onnx")
    with pytest.raises(SubjectError, match="no output"):
        onnx_subject(exported[1], output="logit")
    with pytest.raises(SubjectError, match="no field is named"):
        onnx_subject(exported[1], fields=FIELDS[:-1])
