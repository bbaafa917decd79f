"""TensorBoard logs written by others are read without TensorBoard's reader, agree with it, and are diagnosed."""

import shutil
import struct

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: tensorboard)")

from recspect.diagnosis.finding import Verdict
from recspect.errors import DataError, UsageError
from recspect.examining.event_files import examine_events
from recspect.sinks.event_files import Condition, HistogramPoint, ScalarPoint, checksum, points_of
from recspect.sinks.tensorboard_reading import read_events, series_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def writer():
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def the_file(folder):
    (path,) = folder.rglob("*.tfevents.*")
    return path


# ---------------------------------------------------------------------- bytes


def test_the_checksum_is_that_of_the_standard():
    plain = (((checksum(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF) << 15 | ((checksum(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF) >> 17) & 0xFFFFFFFF
    assert plain == 0xE3069283  # the check value of CRC-32C (RFC 3720, appendix B.4)


def test_scalars_and_histograms_are_those_that_tensorboard_reads(tmp_path, writer):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    rng = np.random.default_rng(0)
    with writer(tmp_path) as log:
        for step in range(-1, 300, 7):
            log.add_scalar("old", rng.normal(), step)
            log.add_scalar("new", rng.normal() * 1e300 if step % 2 else float("nan"), step, new_style=True, double_precision=True)
            log.add_histogram("weights/a", rng.normal(size=100), step)
        log.add_text("note", "a text")
        log.add_image("picture", np.zeros((3, 8, 8)), 1)
        log.add_hparams({"lr": 0.1}, {"loss": 1.0}, run_name=".")
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0}).Reload()
    found = [point for path in sorted(tmp_path.glob("*.tfevents.*")) for point in points_of(path, Condition())]
    mine = [(p.step, p.value) for p in found if isinstance(p, ScalarPoint) and p.tag == "old"]
    assert mine == [(event.step, event.value) for event in events.Scalars("old")]
    theirs = [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors("new")]
    np.testing.assert_array_equal([(p.step, p.value) for p in found if p.tag == "new"], theirs)
    for point, event in zip([p for p in found if isinstance(p, HistogramPoint)], events.Histograms("weights/a"), strict=True):
        value = event.histogram_value
        assert (point.step, point.count, point.total, point.squares) == (event.step, value.num, value.sum, value.sum_squares)
        assert point.exact


def written(tmp_path, writer, steps=20):
    with writer(tmp_path / "log") as log:
        for step in range(steps):
            log.add_scalar("loss", 1.0 + step, step)
    return the_file(tmp_path / "log")


def test_every_way_to_cut_a_file_gives_what_came_before(tmp_path, writer):
    path = written(tmp_path, writer, steps=4)
    whole = path.read_bytes()
    counts = set()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        condition = Condition()
        found = list(points_of(path, condition))
        assert [point.value for point in found] == [1.0 + step for step in range(len(found))]
        assert condition.damaged == 0
        assert condition.cut_at is None or condition.cut_at < size
        counts.add(len(found))
    assert counts == {0, 1, 2, 3}  # the fourth is there only where nothing is cut


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bytes_never_give_a_wrong_number(tmp_path, writer, seed):
    path = written(tmp_path, writer)
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    lost = 0
    for at in rng.integers(0, len(whole), 60):
        broken = bytearray(whole)
        broken[at] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        condition = Condition()
        found = {(p.step, p.value) for p in points_of(path, condition)}
        assert found <= {(step, 1.0 + step) for step in range(20)}
        lost += len(found) < 20
        assert len(found) == 20 or condition.damaged or condition.cut_at is not None
    assert lost > 30


def test_a_damaged_record_is_passed_over_and_told(tmp_path, writer):
    path = written(tmp_path, writer)
    content = bytearray(path.read_bytes())
    at = 0
    for _ in range(5):  # to the fifth record, whose content gets another byte
        at += 16 + struct.unpack_from("<Q", content, at)[0]
    content[at + 14] ^= 1
    path.write_bytes(content[:-3])
    log = read_events(tmp_path / "log")
    assert len(log.steps) == 18
    assert len(log.notes) == 2
    assert "breaks off" in log.notes[0]
    assert "damaged" in log.notes[1]


def test_text_pictures_and_garbage_hold_no_scalar(tmp_path, writer):
    with writer(tmp_path / "log") as log:
        log.add_text("note", "a text")
    with pytest.raises(DataError, match="no scalar"):
        read_events(tmp_path / "log")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "events.out.tfevents.1.x").write_bytes(np.random.default_rng(0).bytes(4000))
    with pytest.raises(DataError, match="breaks off at byte 0"):
        read_events(tmp_path / "bad")
    with pytest.raises(DataError, match="no event files"):
        read_events(tmp_path / "nothing")


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(("tag", "folder", "expected"), [
    ("loss", "", ("loss/train", "")), ("Loss/train", "", ("loss/train", "")), ("train_loss_step", "", ("loss/train", "")), ("trainLoss", "", ("loss/train", "")),
    ("epoch_loss", "train", ("loss/train", "")), ("epoch_loss", "validation", ("loss/validation", "")), ("val/bce_loss", "", ("loss/validation", "")),
    ("train", "Loss_train", ("loss/train", "")), ("eval/loss", "", ("loss/validation", "")), ("test_loss", "", ("loss/test", "")),
    ("val_auc", "", ("auc/validation", "")), ("train/grad_norm", "", ("gradient_norm", "")), ("grad_2.0_norm_total", "", ("gradient_norm", "")),
    ("grad_norm/fc1.weight", "", ("gradient_norm", "fc1.weight")), ("fc1.weight/grad_norm", "", ("gradient_norm", "fc1.weight")),
    ("lr-Adam", "", ("learning_rate", "")), ("train/learning_rate", "", ("learning_rate", "")),
    ("gradient_norm/whole_model", "", ("gradient_norm", "")), ("update_ratio/mlp.0.weight", "", ("update_ratio", "mlp.0.weight")),
    ("accuracy", "", None), ("loss/auxiliary", "", None), ("aucpr_thing", "", None), ("gloss", "", None),
])
def test_tags_are_understood_by_their_words(tag, folder, expected):
    assert series_of(tag, folder) == expected


def test_of_two_tags_for_one_series_the_finer_is_taken_and_names_override(tmp_path, writer):
    with writer(tmp_path) as log:
        for step in range(10):
            log.add_scalar("train_loss_step", 1.0, step)
            log.add_scalar("criterion", 2.0, step)
            log.add_scalar("norms/encoder", 3.0, step)
        log.add_scalar("train_loss_epoch", 5.0, 9)
    log = read_events(tmp_path)
    assert log.understood == {"train_loss_step": ("loss/train", "")}
    assert log.others == ["criterion", "norms/encoder", "train_loss_epoch"]
    named = read_events(tmp_path, names={"criterion": "loss/validation", "norms/encoder": "gradient_norm:encoder"})
    assert named.understood["norms/encoder"] == ("gradient_norm", "encoder")
    assert {row["value"] for row in named.steps.to_pylist() if row["series"] == "loss/validation"} == {2.0}


def test_a_loss_of_another_name_is_taken_where_it_is_the_only_one(tmp_path, writer):
    with writer(tmp_path) as log:
        log.add_scalar("ctr_loss", 1.0, 1)
        log.add_scalar("val/ctr_loss", 1.0, 1)
    assert read_events(tmp_path).understood == {"ctr_loss": ("loss/train", "")}


def test_a_training_started_again_replaces_the_steps_that_it_repeats(tmp_path, writer):
    for number, (first, value) in enumerate([(0, 1.0), (5, 2.0)]):
        with writer(tmp_path, filename_suffix=f".{number}") as log:
            for step in range(first, 10):
                log.add_scalar("loss", value, step)
    files = sorted(tmp_path.glob("*.tfevents.*"), key=lambda path: path.name[-1])
    for number, path in enumerate(files):  # both were begun within the same second
        path.rename(tmp_path / f"events.out.tfevents.{number}.host")
    rows = read_events(tmp_path).steps.to_pylist()
    assert [(row["step"], row["value"]) for row in rows] == [(step, 1.0 if step < 5 else 2.0) for step in range(10)]


def test_several_runs_have_to_be_told_apart(tmp_path, writer):
    for name in ("one", "two"):
        with writer(tmp_path / name) as log:
            log.add_scalar("loss", 1.0, 1)
    with pytest.raises(UsageError, match="'one', 'two'"):
        read_events(tmp_path)
    for part in ("train", "validation"):  # parts of one run, as Keras writes them
        with writer(tmp_path / "keras" / part) as log:
            log.add_scalar("epoch_loss", 1.0, 1)
    assert {series for series, _ in read_events(tmp_path / "keras").understood.values()} == {"loss/train", "loss/validation"}
    with writer(tmp_path / "together") as log:
        log.add_scalar("lr", 1.0, 1)
        log.add_scalars("Loss", {"train": 1.0, "val": 2.0}, 1)
    assert {series for series, _ in read_events(tmp_path / "together").understood.values()} == {"loss/train", "loss/validation", "learning_rate"}


# ---------------------------------------------------------------------- diagnosis


def trained(folder, writer, *, seed=0, activation=nn.ReLU, layers=8, spikes=(), nan_from=None, histograms=True):
    """A small network trained with an ordinary loop that logs as tutorials do."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(*[part for _ in range(layers) for part in (nn.Linear(16, 16), activation())], nn.Linear(16, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    with writer(folder) as log:
        for step in range(1, 81):
            x = torch.randn(64, 16, generator=generator)
            loss = nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], (x[:, 0] > 0).float())
            loss = loss * (100 if step in spikes else 1)
            optimiser.zero_grad()
            loss.backward()
            log.add_scalar("Loss/train", float("nan") if nan_from and step >= nan_from else loss.item(), step)
            log.add_scalar("lr", 0.05, step)
            for name, parameter in model.named_parameters():
                if step % 5 == 0 and histograms:
                    log.add_histogram(f"{name}.grad", parameter.grad, step)
                elif step % 5 == 0:
                    log.add_scalar(f"grad_norm/{name}", parameter.grad.norm().item(), step)
            if step not in spikes:
                optimiser.step()
    return examine_events(folder)


def worst(report, code):
    return max((finding for finding in report.findings if finding.code == code), key=lambda finding: finding.verdict.severity)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("histograms", [True, False])
def test_a_healthy_log_passes(tmp_path, writer, seed, histograms):
    report = trained(tmp_path / "log", writer, seed=seed, histograms=histograms, layers=3)
    assert {finding.verdict for finding in report.findings} == {Verdict.PASS}
    assert {finding.code for finding in report.findings} == {"training.loss_anomaly", "training.gradient_flow"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("histograms", [True, False])
def test_a_vanishing_gradient_is_found_at_the_first_layer(tmp_path, writer, seed, histograms):
    finding = worst(trained(tmp_path / "log", writer, seed=seed, activation=nn.Sigmoid, histograms=histograms), "training.gradient_flow")
    assert finding.verdict is Verdict.FAIL
    assert finding.place.name == "0.weight"
    assert finding.estimate.value < 1e-4


def test_a_loss_that_jumps_and_a_gradient_that_bursts_are_found(tmp_path, writer):
    report = trained(tmp_path / "log", writer, spikes=(50, 60))
    jump, burst = worst(report, "training.loss_anomaly"), worst(report, "training.gradient_flow")
    assert jump.verdict is not Verdict.PASS
    assert jump.place.name == "50"
    assert burst.verdict is Verdict.FAIL
    assert burst.place.name == "50"


def test_a_loss_that_becomes_nan_is_found_at_its_step(tmp_path, writer):
    finding = worst(trained(tmp_path / "log", writer, nan_from=70), "training.loss_anomaly")
    assert finding.verdict is Verdict.FAIL
    assert finding.place.name == "70"


def test_a_truncated_log_is_diagnosed_and_the_report_says_so(tmp_path, writer):
    trained(tmp_path / "log", writer, spikes=(50, 60))
    path = the_file(tmp_path / "log")
    path.write_bytes(path.read_bytes()[:-100])
    report = examine_events(tmp_path / "log")
    assert worst(report, "training.loss_anomaly").place.name == "50"
    assert "breaks off" in report.provenance["notes"][0]
    assert any("breaks off" in item for evidence in report.overview for item in evidence.items)


def test_a_log_without_loss_or_gradients_is_refused_with_its_tags(tmp_path, writer):
    with writer(tmp_path / "log") as log:
        log.add_scalar("accuracy", 0.5, 1)
    with pytest.raises(DataError, match="'accuracy'") as caught:
        examine_events(tmp_path / "log")
    assert "names=" in caught.value.hint


def test_the_command_line_diagnoses_a_log(tmp_path, writer):
    from typer.testing import CliRunner

    from recspect.cli import app

    trained(tmp_path / "log", writer, nan_from=70)
    shutil.copy(the_file(tmp_path / "log"), tmp_path / "events.out.tfevents.alone")
    for path in (tmp_path / "log", tmp_path / "events.out.tfevents.alone"):
        done = CliRunner().invoke(app, ["diagnose", str(path), "--format", "json"])
        assert done.exit_code == 1, done.output
        assert '"training.loss_anomaly"' in done.stdout
