"""Whether contributions say what the model does: facts A17 to A19 of other projects' tests, and laws."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from captum.metrics import infidelity as captum_infidelity
from scipy.stats import spearmanr
from torch import nn

from formulas import formula
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import integrated_gradients
from recspect.diagnosis.probes.faithfulness import infidelity, insensitivity, matrix, parameter_randomisation
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError


def nested(a, b):
    """Captum's BasicModel2: ReLU(ReLU(x1) - 1 - ReLU(x2))."""
    return torch.relu(torch.relu(a) - 1 - torch.relu(b))


def explained(subject, batch):
    return matrix(integrated_gradients(subject, batch), subject.sites(batch).fields)


# ------------------------------------------------------------------ infidelity


def test_near_the_row_the_proportions_of_integrated_gradients_are_exact_for_captums_network():
    """Fact A17: (1.5, -0.5) is exact up to its scale, and its scale does not matter."""
    subject, batch = formula(nested, "ab", (3, 1))
    found = explained(subject, batch)
    assert found == pytest.approx(np.array([[1.5, -0.5]]))
    for scale in (1.0, -3.0, 0.01):
        assert infidelity(subject, batch, scale * found, distance=0.01, normalise=True) == pytest.approx(0, abs=1e-12)
    assert infidelity(subject, batch, found, distance=0.01) > 1e-5  # the slope is 1, the mean slope of the path a half


def test_a_linear_model_is_explained_exactly_at_any_distance_and_nothing_else_is():
    subject, batch = formula(lambda a, b, c: 2 * a - b + 0 * c, "abc", (1, 2, 3), (0.5, -1, 2))
    found = explained(subject, batch)
    for distance in (0.01, 0.5, 1.0):
        assert infidelity(subject, batch, found, distance=distance) == pytest.approx(0, abs=1e-10)
    assert (infidelity(subject, batch, found[:, ::-1].copy()) > 0.1).all()


def test_the_figure_is_that_of_captum_on_the_same_sets():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    subject, batch = formula(lambda a, b, c: net(torch.stack([a, b, c], 1)).squeeze(1), "abc", (1, -2, 0.5), (0.3, 1, 2))
    rows = torch.tensor([[1, -2, 0.5], [0.3, 1, 2]])
    theirs = IntegratedGradients(lambda x: net(x).squeeze(1)).attribute(rows, n_steps=200)
    sets = (np.arange(1, 8)[:, None] >> np.arange(3) & 1).astype(np.float32)  # every set once, as ours takes them

    def perturb(x):
        masks = torch.from_numpy(sets).repeat(2, 1)
        return masks, x * (1 - masks)

    expected = captum_infidelity(lambda x: net(x).squeeze(1), perturb, rows, theirs, n_perturb_samples=7).detach().numpy()
    # Captum's perturbation is subtracted and multiplied with the contributions: with masks of 0 and 1 both are ours
    assert infidelity(subject, batch, theirs.detach().double().numpy()) == pytest.approx(expected, rel=1e-4)


# ------------------------------------------------------------------ fields that must have something, and must not


def test_violations_are_counted():
    """In the manner of fact A18, by hand: nothing wrong, everything the wrong way round, something for a field that does nothing, nothing at all."""
    names = "abcd"
    subject, batch = formula(lambda a, b, c, d: a * b + 0 * c + 0 * d, names, *[(1, 2, 3, 4)] * 4)
    right = np.tile([1.0, 1.0, 0.0, 0.0], (4, 1))
    idle = right + np.array([0.0, 0.0, 1.0, 0.0])
    assert [int(insensitivity(subject, batch, c).sum()) for c in (right, 1 - right, idle, 0 * right)] == [0, 16, 4, 8]


def test_a_field_that_counts_only_with_another_is_no_violation():
    subject, batch = formula(lambda a, b: torch.relu(a + b - 1.5), "ab", (1, 1))  # alone neither does anything, without the other
    assert insensitivity(subject, batch, np.array([[0.25, 0.25]])).tolist() == [0]
    subject, batch = formula(lambda a, b: torch.clamp(a + b, max=1), "ab", (1, 1))  # each alone is enough: taking one out changes nothing
    assert insensitivity(subject, batch, np.array([[0.5, 0.5]])).tolist() == [0]


# ------------------------------------------------------------------ random weights


class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item, self.city = nn.Embedding(50, 4), nn.Embedding(30, 4), nn.Embedding(10, 4)
        self.mlp = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.mlp(torch.cat([self.user(x["user"]), self.item(x["item"]), self.city(x["city"])], 1)).squeeze(1)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    model = Ranker()
    rows = {"user": rng.integers(0, 50, 2000), "item": rng.integers(0, 30, 2000), "city": rng.integers(0, 10, 2000)}
    inputs = {name: torch.from_numpy(ids) for name, ids in rows.items()}
    label = (inputs["user"] % 2 ^ inputs["city"] % 2).float() * 2 + (inputs["item"] > 15).float()
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        loss = nn.functional.mse_loss(model(inputs), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return TorchSubject(model, fields=["user", "item", "city"]), Batch({name: ids[:300] for name, ids in rows.items()})


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_give_another_explanation_and_the_model_stays_as_it_was(trained, seed):
    """Fact A19."""
    subject, batch = trained
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    found = parameter_randomisation(subject, batch, seed=seed)
    assert found.layers == ("mlp.2", "mlp.0", "city", "item", "user")
    assert abs(found.correlation[-1]) < 0.3
    assert found.depends_on_weights
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_an_explanation_of_the_inputs_alone_is_flagged(trained):
    subject, batch = trained

    def by_ids(_, rows):
        return np.stack([rows.numbers(name) for name in ("user", "item", "city")], 1)

    found = parameter_randomisation(subject, batch, explain=by_ids)
    assert found.correlation == pytest.approx([1.0] * 5)
    assert not found.depends_on_weights


def test_ranks_are_those_of_scipy(trained):
    subject, batch = trained
    rng = np.random.default_rng(0)
    first, second = (np.round(rng.normal(size=(300, 3)), 1) for _ in range(2))
    answers = iter([first, *[second] * 5])
    found = parameter_randomisation(subject, batch, explain=lambda *_: next(answers))
    assert found.correlation[0] == pytest.approx(spearmanr(np.abs(first).ravel(), np.abs(second).ravel()).statistic)


def test_wrong_use_is_told(trained):
    subject, batch = trained
    with pytest.raises(UsageError, match="expected one row per row"):
        infidelity(subject, batch, np.zeros((3, 3)))
    with pytest.raises(UsageError, match="distance"):
        infidelity(subject, batch, np.zeros((300, 3)), distance=0)
    with pytest.raises(UsageError, match="no order"):
        parameter_randomisation(subject, batch, explain=lambda *_: np.ones((300, 3)))
