"""A training can be read while it goes on: what the last epoch's files lack stands in a text file beside them."""

import json

import pytest
import torch

from recspect.diagnosis.mirror import StepRow
from recspect.diagnosis.observing import Observer
from recspect.diagnosis.observing.live_rows import LIVE_FILE, LiveRows, read_live
from recspect.errors import RunError


def watched(folder, **options):
    model = torch.nn.Linear(3, 1)
    return Observer(model, every=1, folder=folder, on_finding=lambda _: None, **options), model


def train(observer, model, steps):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        with observer.step() as look:
            loss = model(torch.randn(8, 3)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            look.before_update()
            optimiser.step()
            look.after_update()
        observer.record_loss(loss)


def test_at_every_moment_of_a_training_the_two_files_together_hold_its_rows(tmp_path):
    observer, model = watched(tmp_path / "run")
    seen = 0
    for epoch in range(3):
        train(observer, model, 4)
        observer._tell()
        table = read_live(tmp_path / "run")
        assert table.equals(observer.table())
        assert table.num_rows > seen
        assert (tmp_path / "run" / LIVE_FILE).is_file()
        observer.end_epoch({"auc/validation": 0.6 + epoch / 100})
        assert not (tmp_path / "run" / LIVE_FILE).exists()
        assert read_live(tmp_path / "run").equals(observer.table())
        seen = table.num_rows


def test_a_training_that_goes_on_does_not_write_again_what_the_file_has(tmp_path):
    observer, model = watched(tmp_path)
    train(observer, model, 5)
    observer.end_epoch()
    before = observer.table()
    again, model = watched(tmp_path, steps_done=5)
    assert not (tmp_path / LIVE_FILE).exists()
    train(again, model, 2)
    again._tell()
    table = read_live(tmp_path)
    assert table.equals(again.table())
    assert table.slice(0, before.num_rows).equals(before)
    assert {json.loads(line)[0] for line in (tmp_path / LIVE_FILE).read_text().splitlines()} == {6, 7}


def test_what_is_not_finite_survives_and_a_line_that_is_being_written_is_left_out(tmp_path):
    rows = [StepRow(1, 1, "loss/train", "", float("nan")), StepRow(2, 1, "loss/train", "", float("inf")), StepRow(3, 1, "a\nb", 'größe "x"', 1e-300)]
    live = LiveRows(tmp_path)
    live.add(rows)
    with (tmp_path / LIVE_FILE).open("a") as file:
        file.write('[4, 1, "loss')
    table = read_live(tmp_path).to_pylist()
    assert [row["step"] for row in table] == [1, 2, 3]
    assert table[0]["value"] != table[0]["value"]
    assert table[1]["value"] == float("inf")
    assert (table[2]["series"], table[2]["place"], table[2]["value"]) == ("a\nb", 'größe "x"', 1e-300)


def test_nothing_is_written_without_a_folder_and_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    LiveRows(None).add([StepRow(1, 1, "x", "", 0.0)])
    (tmp_path / "file").write_text("")
    live = LiveRows(tmp_path / "file" / "below")
    live.add([StepRow(1, 1, "x", "", 0.0)])
    live.add([StepRow(2, 1, "x", "", 0.0)])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert read_live(tmp_path).num_rows == 0


@pytest.mark.parametrize("line", ["no json", "[1, 2, 3]", '{"step": 1}', '[1, 1, "a", "b", "many"]'])
def test_a_damaged_file_is_named(tmp_path, line):
    (tmp_path / LIVE_FILE).write_text(line + "\n")
    with pytest.raises(RunError, match="damaged"):
        read_live(tmp_path)
