"""Remedies that change how a model is trained, or its layers and tables."""

from __future__ import annotations

from recspect.optimising.remedy import Facts, Gate, Part, Prepared, RemedyKind

DEEPEST = 3
"""Hidden layers that a gradient still passes without help."""
NARROWEST = 4


def _lower_rate(facts: Facts) -> Prepared | None:
    recipe = facts.recipe
    if recipe is None or facts.try_out is None:
        return Prepared("Lower every learning rate ten times; where the loss still does not fall, ten times more.")
    rates = recipe.config.learning_rate, recipe.config.table_learning_rate
    choices = {factor: {"learning_rate": rates[0] / factor, "table_learning_rate": rates[1] / factor} for factor in (10, 100, 1000)}
    losses = {factor: facts.try_out({"training": settings}) for factor, settings in choices.items()}
    factor = min(losses, key=lambda one: losses[one])
    tried = ", ".join(f"{losses[one]:.4f} at a {one}th" for one in losses)
    return Prepared(f"Divide both learning rates by {factor}: {rates[0]:g} and {rates[1]:g} become {rates[0] / factor:g} and {rates[1] / factor:g} (validation loss of one training each: {tried}).",
                    {"training": choices[factor]})


def _stop_earlier(facts: Facts) -> Prepared | None:
    if facts.recipe is None:
        named = next((finding.place.name for finding in facts.report.find("training.one_epoch") if finding.place.kind == "epoch"), "1")
        return Prepared(f"Keep the model of epoch {named}, and train no longer.")
    losses = {int(figures["epoch"]): figures.get("validation_loss") for figures in facts.epochs}
    known = {epoch: loss for epoch, loss in losses.items() if loss is not None}
    if not known:
        return None
    best = min(known, key=lambda epoch: known[epoch])
    if best >= facts.recipe.config.maximum_epochs and facts.recipe.epoch == "best":
        return None
    return Prepared(f"Train for {best} epochs at most instead of {facts.recipe.config.maximum_epochs}, and keep the best by validation rows: their loss is {known[best]:.4f} after epoch {best} "
                    f"and {known[max(known)]:.4f} after epoch {max(known)}.", {"training": {"maximum_epochs": best}, "epoch": "best"})


def _regularise(facts: Facts) -> Prepared | None:
    if facts.recipe is None or facts.try_out is None:
        return Prepared("Add weight decay to the embeddings only: start at 1e-5 and multiply by ten while validation loss falls.")
    now = facts.recipe.config.embedding_l2
    if facts.recipe.config.table_optimiser != "rowwise_adagrad":
        return None
    losses = {l2: facts.try_out({"training": {"embedding_l2": l2}}) for l2 in (1e-5, 1e-4, 1e-3) if l2 > now}
    if not losses:
        return None
    best = min(losses, key=lambda one: losses[one])
    return Prepared(f"Set embedding_l2 from {now:g} to {best:g} (validation loss of one training each: {', '.join(f'{loss:.4f} at {l2:g}' for l2, loss in losses.items())}).",
                    {"training": {"embedding_l2": best}})


def _silu(facts: Facts) -> Prepared | None:
    if facts.recipe is None:
        return Prepared("Use an activation that is flat nowhere (SiLU, GELU, leaky ReLU), and initialise the layer anew.")
    if facts.recipe.config.model.activation != "relu":
        return None
    return Prepared("Use SiLU in place of ReLU: no unit can die for good.", {"model": {"activation": "silu"}})


def _fewer_layers(facts: Facts) -> Prepared | None:
    if facts.recipe is None:
        return Prepared(f"At most {DEEPEST} hidden layers, or residual connections, or a normalisation before each activation.")
    hidden = facts.recipe.config.model.hidden
    if len(hidden) <= 1:
        return None
    kept = hidden[:DEEPEST] if len(hidden) > DEEPEST else hidden[:-1]
    return Prepared(f"{len(kept)} hidden layers instead of {len(hidden)}: {', '.join(map(str, kept))}.", {"model": {"hidden": kept}})


def _narrower(facts: Facts) -> Prepared | None:
    share = facts.value("embeddings.collapse")
    if facts.recipe is None:
        return Prepared("Narrow the table to its effective rank" + (f": {100 * share:.0f}% of its width" if share is not None else "") + "; less weight decay on it.")
    width = facts.recipe.config.model.embedding_width
    wanted = max(NARROWEST, min(width // 2, round(width * share))) if share is not None else max(NARROWEST, width // 2)
    if wanted >= width:
        return None
    used = f" (its vectors use {share * width:.1f} of {width} dimensions)" if share is not None else ""
    return Prepared(f"Embeddings {wanted} wide instead of {width}{used}.", {"model": {"embedding_width": wanted}})


def _clip(facts: Facts) -> Prepared | None:
    if facts.recipe is None:
        return Prepared("Clip the joint gradient norm at ten times its median, and look at the rows of the step at which it jumped.")
    if facts.recipe.config.clip_norm is not None:
        return None
    return Prepared("Clip the joint gradient norm at 1; look at the rows of the step at which it jumped.", {"training": {"clip_norm": 1.0}})


def _unknown(facts: Facts) -> Prepared | None:
    share = facts.value("embeddings.untrained_rows")
    hidden = min(0.03, max(0.003, share or 0.01))
    text = f"Hide {100 * hidden:.1f}% of known ids in every step, so that the row that new ids read is trained"
    if facts.recipe is None:
        return Prepared(f"{text}.")
    if facts.recipe.config.unknown_share >= hidden:
        return None
    return Prepared(f"{text} (unknown_share {facts.recipe.config.unknown_share:g} to {hidden:.3g}).", {"training": {"unknown_share": round(hidden, 4)}})


def _said(text: str) -> Prepared:
    return Prepared(text)


MEMORY = ("training.one_epoch", "training.overfitting", "training.memorisation", "training.membership_inference")

REMEDIES: tuple[RemedyKind, ...] = (
    RemedyKind(code="lower_learning_rate", part=Part.TRAINING, prepare=_lower_rate, causes=("learning_rate", "dead_layer", "nothing_learned"), cost="three trainings to choose the factor, then one",
               codes=("training.learning_rate", "training.loss_anomaly", "training.update_ratio", "training.dead_units", "predictions.normalised_entropy"),
               source="Smith 2017, Cyclical Learning Rates (trying rates out)"),
    RemedyKind(code="stop_earlier", part=Part.TRAINING, prepare=_stop_earlier, causes=("memorisation",), codes=MEMORY, vanishes=True, cost="less than before",
               source="Zhang et al. 2022, Towards Understanding the Overfitting Phenomenon of Deep Click-Through Rate Models"),
    RemedyKind(code="regularise_tables", part=Part.TRAINING, prepare=_regularise, causes=("memorisation",), codes=MEMORY, cost="three trainings to choose the weight, then one"),
    RemedyKind(code="change_activation", part=Part.MODEL, prepare=_silu, causes=("dead_layer",), codes=("training.dead_units", "predictions.churn"),
               source="Shamir and Lin 2022 (smooth activations)"),
    RemedyKind(code="fewer_layers", part=Part.MODEL, prepare=_fewer_layers, causes=("vanishing_gradient",), codes=("training.gradient_flow",), cost="less than before"),
    RemedyKind(code="narrow_embeddings", part=Part.MODEL, prepare=_narrower, causes=("embedding_collapse",), codes=("embeddings.collapse",), cost="less memory than before",
               source="Guo et al. 2024, On the Embedding Collapse When Scaling Up Recommendation Models"),
    RemedyKind(code="clip_gradients", part=Part.TRAINING, prepare=_clip, causes=("broken_batch",), codes=("training.loss_anomaly", "training.gradient_flow"),
               source="Tang et al. 2023, Improving Training Stability for Multitask Ranking Models (Clippy clips the update, which is left to you)"),
    RemedyKind(code="train_unknown", part=Part.TRAINING, prepare=_unknown, causes=("new_ids",), codes=("embeddings.untrained_rows", "predictions.cold_start")),
)

CHECKS: tuple[RemedyKind, ...] = (
    RemedyKind(code="check_labels", part=Part.DATA, causes=("nothing_learned",), codes=("predictions.normalised_entropy", "predictions.ranking_quality"),
               prepare=lambda _: _said("Check that labels were joined to their own rows, and that fields reach the model; a logistic regression on the same rows must beat the base rate.")),
)
"""What is looked at before anything is changed."""

INSTRUCTIONS: tuple[RemedyKind, ...] = (
    RemedyKind(code="warm_up", part=Part.TRAINING, causes=("learning_rate",), gate=Gate.GAIN,
               prepare=lambda _: _said("Raise the learning rate from 0 over the first 500 steps, or the first twentieth of an epoch.")),
    RemedyKind(code="reset_embeddings_each_epoch", part=Part.TRAINING, causes=("memorisation",), gate=Gate.GAIN, codes=("training.one_epoch",),
               prepare=lambda _: _said("Initialise the embedding tables anew before every epoch and keep the layers above (MEDA); then more epochs can help."),
               source="Liu et al. 2023, Multi-Epoch Learning for Deep Click-Through Rate Prediction Models"),
    RemedyKind(code="reset_dead_units", part=Part.MODEL, causes=("dead_layer",), codes=("training.dead_units",),
               prepare=lambda _: _said("Every 1,000 steps draw the incoming weights of dormant units anew and set their outgoing weights to 0 (ReDo)."),
               source="Sokar et al. 2023, The Dormant Neuron Phenomenon in Deep Reinforcement Learning"),
    RemedyKind(code="multiple_embeddings", part=Part.MODEL, causes=("embedding_collapse",), codes=("embeddings.collapse",),
               prepare=lambda _: _said("Give the field two to four narrow tables with interactions of their own in place of one wide table (multi-embedding)."),
               source="Guo et al. 2024, On the Embedding Collapse When Scaling Up Recommendation Models"),
    RemedyKind(code="private_training", part=Part.TRAINING, codes=("training.membership_inference",),
               prepare=lambda facts: _said("Train with DP-SGD (Opacus): clip each row's gradient at norm 1, noise multiplier 1, delta "
                                           + (f"1/{facts.parts.train.rows:,}" if facts.parts is not None else "1 / training rows")
                                           + "; report the epsilon that its accountant gives, and expect to lose quality."),
               source="Abadi et al. 2016, Deep Learning with Differential Privacy"),
    RemedyKind(code="smooth_activations", part=Part.MODEL, codes=("predictions.churn",), prepare=_silu, source="Shamir and Lin 2022"),
)

__all__ = ["CHECKS", "INSTRUCTIONS", "MEMORY", "REMEDIES"]
