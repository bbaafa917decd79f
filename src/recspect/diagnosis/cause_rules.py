"""The rules by which findings are read together, in the order in which things flow: see `causes` and docs/causes.md."""

from __future__ import annotations

from collections.abc import Sequence

from recspect.diagnosis.causes import Rule, Sign
from recspect.diagnosis.finding import Finding, Remedy, Verdict

NEW_IDS = "share of rows with ids new since training"
"""Unit of a `data.drift` finding that is about ids which training never saw."""


def _below(finding: Finding, _: Sequence[Finding]) -> bool:
    """Its number is below the neutral value."""
    return finding.estimate is not None and finding.estimate.value < finding.neutral


def _shared(finding: Finding, _: Sequence[Finding]) -> bool:
    """Rows or a time that both sides share: not rows repeated within a side (a slice), nor a field known too late."""
    return finding.place.kind not in ("slice", "field")


def _repeated(finding: Finding, _: Sequence[Finding]) -> bool:
    """Rows repeated within training."""
    return finding.place.kind == "slice" and finding.place.name == "training rows"


def _often_repeated(finding: Finding, others: Sequence[Finding]) -> bool:
    """So many repeated rows that they can account for what the model learns: more than one in twenty."""
    return _repeated(finding, others) and finding.estimate is not None and finding.estimate.value > 0.05


def _by_heart(finding: Finding, _: Sequence[Finding]) -> bool:
    """A fall from one epoch to the next, rows of rare ids that are known by heart, or a gap that fails."""
    return finding.code != "training.overfitting" or finding.verdict is Verdict.FAIL


def _more_missing(finding: Finding, _: Sequence[Finding]) -> bool:
    """The share changed; a field that is half empty on both sides is a fault of its own."""
    return finding.estimate is not None and finding.estimate.value > 0.05


def _no_memorised_id(finding: Finding, findings: Sequence[Finding]) -> bool:
    """The worst such field, and no id where training rows were learned by heart: with ids it is a matter of how long was trained.

    Ids are the fields that `training.memorisation` is about, whatever it says of them.
    """
    worst = next(other for other in findings if other.code == finding.code)
    ids = {other.place.name for other in findings if other.code == "training.memorisation"}
    learned = any(other.code in ("training.one_epoch", "training.overfitting", "training.memorisation") and other.verdict in (Verdict.WARN, Verdict.FAIL)
                  for other in findings)
    return finding is worst and not (learned and finding.place.name in ids)


def _jumped(finding: Finding, _: Sequence[Finding]) -> bool:
    """The loss jumped at one moment, by robust deviations; it did not only rise slowly."""
    return finding.estimate is not None and finding.estimate.unit == "robust deviations"


def _ranks(finding: Finding, _: Sequence[Finding]) -> bool:
    """Higher scores surely have more positives, if fewer than they say: something was learned."""
    return finding.estimate is not None and finding.estimate.surely_above(0.2)


def _not_since_long(finding: Finding, findings: Sequence[Finding]) -> bool:
    """The newest rows are lower than rows that share a moment of change with them: less than 40% of the rows came after it, or the newest lack far more.

    What changed at a moment changed for all rows since; what is late is missing most where rows are newest.
    """
    long = any(other.code == "data.change_point" and other.verdict in (Verdict.WARN, Verdict.FAIL) and other.concerns > 0.4 for other in findings)
    return not long or (finding.estimate is not None and finding.estimate.value > 0.65)


def _new_ids(finding: Finding, _: Sequence[Finding]) -> bool:
    """What drifted is how many ids are new, not the shares of old ones."""
    return finding.estimate is not None and finding.estimate.unit == NEW_IDS


def _other_shares(finding: Finding, others: Sequence[Finding]) -> bool:
    """Old values have other shares, and not because the field moves as much anyhow: that one has the size of a FAIL and WARNs all the same."""
    estimate, limit = finding.estimate, finding.limit or 0.0
    usual = finding.verdict is Verdict.WARN and estimate is not None and estimate.unit == "PSI" and estimate.surely_above(max(0.25, 2 * limit))
    return not usual and not _new_ids(finding, others)


_LEAK = Sign(codes=("data.target_leak",), kind="field")
_REPEATS = Sign(codes=("data.split_overlap",), where=_repeated)
_FUTURE = Sign(codes=("data.time_leak",))
_DRIFT = Sign(codes=("data.drift",), kind="field", where=_other_shares)
_NEW_IDS = Sign(codes=("data.drift",), kind="field", where=_new_ids)
_JOINT = Sign(codes=("data.joint_drift",))
_MISSING = Sign(codes=("data.missing_values",), kind="field", where=_more_missing)
_UNTRAINED = Sign(codes=("embeddings.untrained_rows",))
_IMMATURE = Sign(codes=("data.label_maturity",), where=_not_since_long)
_CHANGE = Sign(codes=("data.change_point",))
_ARMS = Sign(codes=("data.sample_ratio",))
_SAMPLED = Sign(codes=("data.negative_volume",))
_WORSE_THAN_CONSTANT = Sign(codes=("predictions.normalised_entropy",), verdict=Verdict.FAIL)
_DEAD = Sign(codes=("training.dead_units",), verdict=Verdict.FAIL)
_BROKEN = Sign(codes=("training.dead_units", "predictions.normalised_entropy"), verdict=Verdict.FAIL)
_VANISHING = Sign(codes=("training.gradient_flow",), verdict=Verdict.FAIL, kind="layer")
_JUMP = Sign(codes=("training.loss_anomaly",), where=_jumped)
_RATE = Sign(codes=("training.learning_rate",))
_FAR_COLLAPSE = Sign(codes=("embeddings.collapse",), verdict=Verdict.FAIL)
_COLLAPSE = Sign(codes=("embeddings.collapse",))
_ONE_EPOCH = Sign(codes=("training.one_epoch",))
_BY_HEART = Sign(codes=("training.one_epoch", "training.overfitting", "training.memorisation"), where=_by_heart)
_IDS_BY_HEART = Sign(codes=("training.memorisation",))
_IDS_SHUFFLED = Sign(codes=("training.id_shuffle",))
_STILL = Sign(codes=("training.plateau",))
_SPURIOUS = Sign(codes=("features.spurious",), kind="field", where=_no_memorised_id)
_SURELY_SPURIOUS = Sign(codes=("features.spurious",), kind="field", verdict=Verdict.FAIL, where=_no_memorised_id)
_TOO_SURE = Sign(codes=("predictions.calibration_slope",), verdict=Verdict.FAIL, where=_below)
_RANKS = Sign(codes=("predictions.calibration_slope",), where=_ranks)
_GAP_OF_GROUP = Sign(codes=("predictions.group_gap",), verdict=Verdict.FAIL)
_GAP = Sign(codes=("training.overfitting",))
_LARGE_UPDATES = Sign(codes=("training.update_ratio",))
_ONE_FACTOR = Sign(codes=("predictions.negative_sampling",))
_OFF = Sign(codes=("predictions.calibration",))
_FAR_OFF = Sign(codes=("predictions.calibration",), verdict=Verdict.FAIL)
_SLOPE = Sign(codes=("predictions.calibration_slope",), where=_below)
_FLAT_RANKING = Sign(codes=("predictions.ranking_quality",))
_FLAT_LOSS = Sign(codes=("predictions.normalised_entropy",))

_QUALITY = ("predictions.calibration", "predictions.calibration_slope", "predictions.normalised_entropy", "predictions.negative_sampling",
            "predictions.worst_slices", "predictions.group_gap", "predictions.roc_gap", "predictions.cold_start", "predictions.ranking_quality", "predictions.decay",
            "recommendations.exposure_parity", "data.change_point", "data.label_maturity")
"""What the predictions on held-out rows say: anything that is wrong with those rows shows there."""

_INSIDE = ("training.memorisation", "training.id_shuffle", "training.membership_inference", "training.plateau", "training.update_ratio", "training.saturation", "features.disagreement",
           "features.unused", "features.modality", "features.spurious", "training.dead_units", "training.gradient_flow", "embeddings.collapse",
           "embeddings.copies", "embeddings.heavy_tail", "recommendations.coverage", "recommendations.popularity_bias")
"""What a model that learned the wrong thing looks like inside, and what it recommends."""

_DUPLICATED = "Training rows occur several times, so their users and items weigh more than they should."
_DEDUPLICATE = Remedy(code="deduplicate", text="Remove repeated events where the log is read, by user, item and time.")
_NO_REPEATS = "No event repeats; the gap between training and held-out rows is smaller."
_PRIOR_SHIFT = "The rate of positives is another than in training; the fields look the same."
_RECALIBRATE = Remedy(code="recalibrate", text="Fit the intercept anew on fresh complete rows; train on newer rows.")
_CALIBRATED = "Predicted over observed positives is 1 again."
_FLAT = "The vectors of {place} use few of their dimensions."
_FLATTENED = ("embeddings.copies", "recommendations.coverage", "predictions.ranking_quality", "features.disagreement")
_NARROWER = Remedy(code="fewer_dimensions", text="Narrower vectors, less weight decay on the table, or several smaller tables; check the exported table.")
_FULL = "The effective rank is near that of a random table, at no loss of quality, at two widths."
_HEART = "The model learned training rows by heart: each further pass makes it worse on new ones."
_EARLIER = Remedy(code="stop_earlier", text="Keep the model of the best epoch, which may be the first; regularise the tables of rare ids.")
_NO_GAP = "The gap between training and held-out rows shrinks, and held-out loss falls."
_NO_HELP = "{place} moves the scores without helping: the model learned its values by heart."
_DROP = Remedy(code="drop_field", text="Leave the field out, group its rare values, or regularise its table.")
_WITHOUT = "Held-out loss falls without the field, over several seeds."
_WORSE = "Predictions are worse in {place} than elsewhere."
_MEND_SLICE = Remedy(code="mend_slice", text="Compare the slice's rows field by field with the others: a defect of its data, or too few of its rows in training.")
_AS_OTHERS = "The slice's loss comes down, and no other slice's goes up."
_CONSTANT = "The scores say no more than a constant: the labels have nothing to do with the rows, or training failed."
_CHECK_LABELS = Remedy(code="check_labels", text="Check that labels were joined to their own rows; then the learning rate, and whether fields reach the model.")
_BEATS_BASE = "A logistic regression on the same rows beats the base rate."
_LOWER_RATE = Remedy(code="lower_learning_rate", text="Lower the learning rate by ten, or warm it up; clip gradients.")
_RATE_IS_RIGHT = "The size of updates is about a thousandth of the weights, and the loss falls, over three seeds."

RULES: tuple[Rule, ...] = (
    Rule(code="sample_ratio_mismatch", claim="Users did not get into the arms of the experiment as they were meant to.", signs=(_ARMS,),
         remedy=Remedy(code="mend_assignment", text="Do not read the experiment's result; find where users are lost or counted twice in one arm."),
         verify="The chi-square of the arms is back within chance, by day and by platform."),
    Rule(code="broken_propensities", claim="The logged probabilities of what was shown are not those it was shown with, or leave too much unseen to compare policies.",
         signs=(Sign(codes=("recommendations.policy_support",)),),
         remedy=Remedy(code="check_propensities", text="Check that the probabilities of all items sum to 1 in each place; log them before any clipping; do not compare policies "
                       "by this log."),
         verify="The mean weight for uniform choice is 1 within chance."),
    Rule(code="split_leak", claim="The model was trained on what it is judged on: rows, or the future, of the held-out side are in training.",
         signs=(Sign(codes=("data.split_overlap", "data.time_leak"), where=_shared),),
         support=(_FUTURE,), explains=("training.overfitting",),
         remedy=Remedy(code="split_by_time", text="Split by time: everything before a moment trains, everything after it judges; remove copied rows first."),
         verify="No user has a training row after a held-out one, no row is on both sides; the figures fall to an honest level, which is success."),
    Rule(code="target_leak", claim="{place} says the label because it is known only after the event.", signs=(_LEAK,),
         support=(Sign(codes=("data.time_leak",), kind="field"),), explains=("training.overfitting", *_INSIDE, "predictions.calibration_slope"),
         remedy=Remedy(code="drop_field", text="Leave the field out, or rebuild it from what was known before each event; then train again."),
         verify="AUC falls to what the honest fields reach: a drop is success."),
    Rule(code="duplicated_rows", claim=_DUPLICATED, signs=(Sign(codes=("data.split_overlap",), where=_often_repeated),),
         explains=("training.overfitting", "training.one_epoch", "training.membership_inference", "predictions.calibration", "predictions.calibration_slope"),
         remedy=_DEDUPLICATE, verify=_NO_REPEATS),
    Rule(code="position_in_labels", claim="Labels say where a row was shown as well as what it is: examination falls steeply along the list.",
         signs=(Sign(codes=("recommendations.position_bias",)),), explains=("recommendations.popularity_bias",),
         remedy=Remedy(code="model_position", text="Give position to training and fix it at serving, or weigh rows by the chance of being seen."),
         verify="The model's curve along positions is that of swapped or random placements."),
    Rule(code="late_labels", claim="The newest labels are not complete yet: outcomes come later than they are read.", signs=(_IMMATURE,),
         explains=("predictions.calibration", "predictions.negative_sampling", "predictions.normalised_entropy", "data.change_point",
                   "predictions.worst_slices", "predictions.cold_start"),
         remedy=Remedy(code="wait_for_labels", text="Leave out rows younger than the delay of outcomes, or weigh them by the share that has come in."),
         verify="The newest stretch has as many outcomes as its predictions say."),
    Rule(code="sampled_negatives", claim="Negatives were sampled for training and the scores not corrected: all odds are off by one factor.",
         signs=(_SAMPLED,), support=(_OFF, _ONE_FACTOR), explains=("predictions.calibration", "predictions.negative_sampling",
                   "predictions.normalised_entropy", "predictions.worst_slices", "predictions.cold_start", "data.change_point"),
         remedy=Remedy(code="correct_sampling", text="Correct with p / (p + (1 - p) / rate), or fit the intercept on a fresh, complete slice."),
         verify="Predicted over observed positives is 1 on complete rows; AUC does not change."),
    Rule(code="serving_skew", claim="What serving reads is not what is computed from the same events: values or scores differ when they are computed again.",
         signs=(Sign(codes=("data.replay", "features.skew")),), explains=("data.drift", "data.joint_drift", "data.missing_values", *_QUALITY),
         remedy=Remedy(code="one_code", text="Compute fields by the same code and the same version of tables in training and at serving; log what was served."),
         verify="Replayed rows agree with logged ones to the precision of their type."),
    Rule(code="missing_at_serving", claim="{place} is missing at serving more often than in training.", signs=(_MISSING,), support=(_DRIFT,),
         explains=("data.drift", "data.joint_drift", *_QUALITY, "embeddings.untrained_rows"),
         remedy=Remedy(code="mend_pipeline", text="Find the join or service that fails to give the field; train with gaps if they are here to stay."),
         verify="The share of missing values is that of training again."),
    Rule(code="new_ids", claim="{place} brings ids that training never saw: the model reads vectors nothing has trained.", signs=(_UNTRAINED,), support=(_NEW_IDS, _DRIFT),
         explains=("data.drift", "data.joint_drift", *_QUALITY, "recommendations.coverage"),
         remedy=Remedy(code="train_unknown", text="Train more often, hide a share of ids in training (unknown_share) so that the unknown row is trained, or add "
                       "fields that describe new ids."),
         verify="The share of lookups that read untrained rows falls; cold rows are no worse than without the id."),
    Rule(code="new_ids", claim="{place} brings more ids that training never saw than this log brings anyhow: the model knows nothing of them.", signs=(_NEW_IDS,),
         explains=("data.joint_drift", *_QUALITY, "recommendations.coverage"),
         remedy=Remedy(code="train_unknown", text="See whether ids are written as they were; train more often, or add fields that describe new ids."),
         verify="The share of rows with new ids is that of the last training rows again."),
    Rule(code="feedback_loop", claim="Recommendations make the data that the next model learns from: lists become more alike from generation to generation.",
         signs=(Sign(codes=("recommendations.homogenisation",)),), support=(Sign(codes=("recommendations.popularity_bias", "recommendations.coverage")),),
         explains=("recommendations.popularity_bias", "recommendations.coverage", "data.drift", "data.joint_drift"),
         remedy=Remedy(code="explore", text="Show some places at random with known propensities, and weigh the log by them."),
         verify="The overlap of lists stops growing, at no loss in clicks of the random places."),
    Rule(code="default_value", claim="{place} has values at serving in other shares than in training: a default stands in for what is not found, or the traffic is another.",
         signs=(_DRIFT,), support=(_JOINT,), explains=("data.joint_drift", *_QUALITY),
         remedy=Remedy(code="mend_pipeline", text="Compare the most frequent value at serving with the field's default; correct the join or service behind it."),
         verify="The population stability index is back at its level by chance, and quality with it."),
    Rule(code="broken_join", claim="{place} belongs to other rows at serving: each field alone looks as in training, together they do not.", signs=(_JOINT,),
         excluded_by=(_DRIFT, _MISSING), explains=_QUALITY,
         remedy=Remedy(code="mend_join", text="Compare keys and versions of the join that serves the field with those of training; replay logged requests."),
         verify="Replayed rows agree with logged ones, and AUC is back."),
    Rule(code="concept_drift", claim="Outcomes changed at a moment, while the fields look the same: people or the product behave in another way.", signs=(_CHANGE,),
         excluded_by=(_JOINT,), explains=("predictions.calibration", "predictions.decay", "predictions.negative_sampling", "predictions.normalised_entropy",
                                          "predictions.worst_slices", "predictions.cold_start", "data.label_maturity"),
         remedy=Remedy(code="train_newer", text="Look for what was released or happened then; train on rows after it, and more often."),
         verify="Residuals after the moment are as before it."),
    Rule(code="learning_rate", claim="The learning rate is too high: updates are so large that the loss does not fall.",
         signs=(_RATE,), support=(_WORSE_THAN_CONSTANT, _DEAD),
         explains=("predictions.normalised_entropy", "training.overfitting", "training.one_epoch", *_INSIDE, "predictions.calibration",
                   "predictions.calibration_slope", "predictions.ranking_quality", "predictions.worst_slices", "predictions.group_gap",
                   "predictions.negative_sampling", "predictions.cold_start"),
         remedy=_LOWER_RATE, verify=_RATE_IS_RIGHT),
    Rule(code="learning_rate", claim="The learning rate is too high: updates are so large that the loss does not fall.",
         signs=(Sign(codes=("training.loss_anomaly",), verdict=Verdict.FAIL), _BROKEN), support=(_WORSE_THAN_CONSTANT, _DEAD),
         explains=("predictions.normalised_entropy", "training.overfitting", "training.one_epoch", *_INSIDE, "predictions.calibration",
                   "predictions.calibration_slope", "predictions.ranking_quality", "predictions.worst_slices", "predictions.group_gap",
                   "predictions.negative_sampling", "predictions.cold_start"),
         remedy=_LOWER_RATE, verify=_RATE_IS_RIGHT),
    Rule(code="broken_batch", claim="The loss jumped at one moment of training: the rows read then are unlike all others.", signs=(_JUMP,),
         support=(Sign(codes=("training.gradient_flow",), kind="step"),), excluded_by=(_RATE, _WORSE_THAN_CONSTANT, _DEAD),
         explains=("training.gradient_flow", "training.overfitting", "training.one_epoch", "predictions.calibration", "predictions.calibration_slope",
                   "predictions.ranking_quality"),
         remedy=Remedy(code="check_batch", text="Look at the rows of that step (the order of an epoch follows from the seed): wrong labels, units or a damaged file; clip gradients."),
         verify="The loss passes that step as any other."),
    Rule(code="learning_rate", claim="The learning rate is too high: updates were so large that what was learned is worse than a constant, or units died.", signs=(_LARGE_UPDATES, _BROKEN), support=(_DEAD, _WORSE_THAN_CONSTANT),
         explains=("training.gradient_flow", *_QUALITY, *_INSIDE), remedy=_LOWER_RATE, verify=_RATE_IS_RIGHT),
    Rule(code="dead_layer", claim="Layer {place} is dead: what its units should carry never reaches the output.", signs=(_DEAD,),
         explains=("training.gradient_flow", "training.plateau", "predictions.calibration", "predictions.calibration_slope", "features.disagreement", "features.unused",
                   "recommendations.coverage", "predictions.negative_sampling", "predictions.normalised_entropy", "predictions.ranking_quality"),
         remedy=Remedy(code="revive_layer", text="Lower the learning rate or warm it up, use SiLU or leaky ReLU, initialise anew; check the exported biases."),
         verify="Units fire on some rows, and the layer's share of the contributions is above zero."),
    Rule(code="vanishing_gradient", claim="The gradient does not reach layer {place}: it stays as it was initialised.", signs=(_VANISHING,), excluded_by=(_DEAD,),
         explains=(*_QUALITY, *_INSIDE),
         remedy=Remedy(code="fewer_layers", text="Fewer layers, residual connections or a normalisation before each activation."),
         verify="The gradient of the first layer is at least a thousandth of that of the last."),
    Rule(code="embedding_collapse", claim=_FLAT, signs=(_FAR_COLLAPSE,), explains=(*_FLATTENED, *_QUALITY), remedy=_NARROWER, verify=_FULL),
    Rule(code="prior_shift", claim=_PRIOR_SHIFT, signs=(_FAR_OFF,), excluded_by=(_JOINT,), support=(_ONE_FACTOR,),
         explains=(*_QUALITY, "training.overfitting", "training.memorisation", "features.spurious"), remedy=_RECALIBRATE, verify=_CALIBRATED),
    Rule(code="small_table", claim="Ids share rows of the table of {place} though they behave differently.", signs=(Sign(codes=("features.hash_collisions",)),),
         explains=("predictions.cold_start", "predictions.worst_slices", "features.disagreement"),
         remedy=Remedy(code="more_buckets", text="More buckets, two hashes per id, or a vocabulary of the frequent ids."),
         verify="Traffic on shared rows falls, and held-out loss with it."),
    Rule(code="copied_rows", claim="Rows of the table of {place} hold the same vector: the model cannot tell their ids apart.", signs=(Sign(codes=("embeddings.copies",)),),
         explains=("predictions.cold_start", "predictions.worst_slices", "features.disagreement", "recommendations.coverage"), excluded_by=(_COLLAPSE,),
         remedy=Remedy(code="compare_checkpoints", text="Compare the table with the checkpoint that training wrote; lower the weight decay on rows that are read seldom."),
         verify="Rows of different ids differ, and the loss on rows of these ids falls."),
    Rule(code="embedding_collapse", claim=_FLAT, signs=(_COLLAPSE,), explains=_FLATTENED, remedy=_NARROWER, verify=_FULL),
    Rule(code="nothing_learned", claim=_CONSTANT, signs=(_FLAT_LOSS, _FLAT_RANKING), support=(_STILL,), excluded_by=(_ONE_EPOCH, _IDS_BY_HEART, _RANKS), explains=(*_QUALITY, *_INSIDE),
         remedy=_CHECK_LABELS, verify=_BEATS_BASE),
    Rule(code="bad_slice", claim=_WORSE, signs=(_GAP_OF_GROUP,), excluded_by=(_JOINT,),
         explains=("predictions.worst_slices", "predictions.group_gap", "predictions.roc_gap", "predictions.calibration_slope", "predictions.normalised_entropy",
                   "training.overfitting", "training.membership_inference"),
         remedy=_MEND_SLICE, verify=_AS_OTHERS),
    Rule(code="spurious_field", claim=_NO_HELP, signs=(_SURELY_SPURIOUS,),
         explains=("training.overfitting", "training.one_epoch", "training.membership_inference", "features.disagreement"),
         remedy=_DROP, verify=_WITHOUT),
    Rule(code="memorisation", claim=_HEART,
         signs=(_BY_HEART,), support=(_SLOPE, _IDS_SHUFFLED),
         explains=("training.overfitting", "training.memorisation", "training.id_shuffle", "training.membership_inference", "features.spurious", "predictions.calibration",
                   "predictions.calibration_slope", "predictions.normalised_entropy", "embeddings.collapse", "embeddings.heavy_tail", "features.disagreement"),
         remedy=_EARLIER, verify=_NO_GAP),
    Rule(code="memorisation", claim=_HEART, signs=(_TOO_SURE, _GAP), excluded_by=(_FUTURE, _JOINT),
         explains=("training.memorisation", "training.id_shuffle", "features.spurious", "predictions.calibration", "predictions.normalised_entropy", "features.disagreement",
                   "features.corruption"),
         remedy=_EARLIER, verify=_NO_GAP),
    Rule(code="prior_shift", claim=_PRIOR_SHIFT, signs=(_OFF,), excluded_by=(_JOINT,),
         support=(_ONE_FACTOR,), explains=("predictions.negative_sampling", "predictions.normalised_entropy", "predictions.worst_slices",
                                           "predictions.cold_start"),
         remedy=_RECALIBRATE, verify=_CALIBRATED),
    Rule(code="duplicated_rows", claim=_DUPLICATED, signs=(_REPEATS,), remedy=_DEDUPLICATE, verify=_NO_REPEATS),
    Rule(code="memorisation", claim=_HEART, signs=(_IDS_SHUFFLED,), explains=("training.overfitting", "features.disagreement"), remedy=_EARLIER, verify=_NO_GAP),
    Rule(code="nothing_learned", claim=_CONSTANT, signs=(_STILL,), excluded_by=(_ONE_EPOCH, _IDS_BY_HEART, _RANKS), remedy=_CHECK_LABELS, verify=_BEATS_BASE),
    Rule(code="spurious_field", claim=_NO_HELP, signs=(_SPURIOUS,), explains=("features.disagreement",), remedy=_DROP, verify=_WITHOUT),
    Rule(code="bad_slice", claim=_WORSE, signs=(Sign(codes=("predictions.group_gap", "predictions.worst_slices", "predictions.roc_gap")),),
         excluded_by=(_JOINT,), explains=("predictions.worst_slices", "predictions.group_gap", "recommendations.exposure_parity"), remedy=_MEND_SLICE, verify=_AS_OTHERS),
    Rule(code="ageing_model", claim="The model ages: predictions get worse the longer ago it was trained, or later rows are harder for any model.", signs=(Sign(codes=("predictions.decay",)),),
         excluded_by=(_JOINT, _CHANGE), explains=("predictions.cold_start", "predictions.calibration"),
         remedy=Remedy(code="train_more_often", text="Train more often; train on rows up to the middle of the held-out time, and compare on the rest."),
         verify="The newer model has no rise on the rest where the older one has."),
    Rule(code="unequal_exposure", claim="What users choose of {place} is shown further down than what they choose of other kinds.", signs=(Sign(codes=("recommendations.exposure_parity",)),),
         remedy=Remedy(code="check_fields", text="Compare the kind's rows field by field with others; then weigh its training rows more, or re-rank with a bound."),
         verify="Relevant rows of all kinds have about the same exposure, at no loss of NDCG."),
    Rule(code="sampled_protocol", claim="List measures are taken over a few sampled items: they are not those of the catalogue.", signs=(Sign(codes=("recommendations.sampled_candidates",)),),
         remedy=Remedy(code="rank_catalogue", text="Rank the whole catalogue, or compare models by AUC."), verify="Models keep their order over the whole catalogue."),
)
"""Every rule, upstream first."""
