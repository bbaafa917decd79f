"""Watching a real Trainer of Lightning."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn import functional

lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install 'recspect[lightning]'")

from recspect.diagnosis.observing.lightning_callback import Watch  # noqa: E402 - after asking whether it is there
from test_observing_loops import Network, batch, same  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns about loggers, workers and its own dependencies


class Module(lightning.LightningModule):
    def __init__(self, fault: int | None = None) -> None:
        super().__init__()
        self.network, self.fault = Network(sparse=False), fault

    def forward(self, ids):
        return self.network(ids)

    def training_step(self, rows, index):
        if index == self.fault:
            raise ValueError("a fault of the user's")
        return functional.binary_cross_entropy_with_logits(self(rows[0]), rows[1])

    def validation_step(self, rows, index):
        self.log("val_loss", functional.binary_cross_entropy_with_logits(self(rows[0]), rows[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(callbacks, *, fault=None, **settings):
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    module = Module(fault)
    rows = [batch(draw) for _ in range(12)]
    loader = torch.utils.data.DataLoader(rows, batch_size=None)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                                enable_model_summary=False, callbacks=callbacks, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader, torch.utils.data.DataLoader(rows[:3], batch_size=None))
    return module


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}])
def test_a_trainer_is_watched_and_its_weights_are_the_same(tmp_path, settings):
    plain = fit([], **settings)
    watch = Watch(tmp_path, every=1)
    watched = fit([watch], **settings)
    assert watch.observer.failure == ""
    assert same(plain, watched)
    assert not any(module._forward_hooks for module in watched.modules())
    table = watch.observer.table().to_pylist()
    steps = 24 // settings.get("accumulate_grad_batches", 1)
    assert [row["step"] for row in table if row["series"] == "loss/train"] == list(range(1, steps + 1))
    assert [row["epoch"] for row in table if row["series"] == "loss/validation"] == [1, 2]
    for series in ("gradient_norm", "update_ratio", "activation_mean"):
        assert {row["step"] for row in table if row["series"] == series and row["place"]} == set(range(1, steps + 1)), series
    assert (tmp_path / "observed.json").is_file()


def test_the_loss_and_the_gradient_are_those_of_the_first_step():
    watch = Watch(every=1)
    fit([watch])
    torch.manual_seed(0)
    model = Module()
    ids, label = batch(torch.Generator().manual_seed(1))
    found = {(row["series"], row["place"]): row["value"] for row in watch.observer.table().to_pylist() if row["step"] == 1}
    assert found["loss/train", ""] == pytest.approx(0.69, abs=0.15)
    assert found["weight_norm", "network.layers.0.weight"] == pytest.approx(model.network.layers[0].weight.norm().item(), rel=1e-5)
    assert found["gradient_norm", ""] > 0
    assert len(ids) == len(label) == 32


def test_an_error_of_the_users_is_passed_on_and_no_hook_is_left(tmp_path):
    watch = Watch(tmp_path, every=1)
    with pytest.raises(ValueError, match="a fault of the user's"):
        fit([watch], fault=4)
    assert '"interrupted"' in (tmp_path / "observed.json").read_text()
    assert not any(module._forward_hooks for module in watch.observer.model.modules())
