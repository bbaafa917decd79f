"""Whether a row's score gives away that the model was trained on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, percent, require_classes, verdict_above
from recspect.diagnosis.diagnostics.training.strangers import STRANGERS, THRESHOLD, share_of_strangers, user_counts
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stat import jackknife
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.diagnosis.tally import Tally

Floats = NDArray[np.float64]
LIMIT = 0.60
FALSE_RATE, CAUGHT = 0.001, 0.01
"""Share of outsiders that the attacker may take for members, and of members caught at it that is too much."""
LIVELY = 0.51
"""Above this probability that a training negative scores above a held-out one, what is caught at few false alarms may be the time."""
OF_A_CLASS = 100


class MembershipInference(Diagnostic):
    """Can an attacker who sees a positive row's loss tell that training had it?

    Loss-threshold attack on positive rows: AUC = P(score of a training positive > of a held-out positive). What the two sides differ by without any memory
    (training rows of a livelier time, say) moves scores of negatives the same way: A- = P(score of a training negative > of a held-out negative), and AUC less
    what A- is above 1/2 is judged.
    """

    code = "training.membership_inference"
    question = "Does the score of a row give away that the model was trained on it?"
    sources = ("Yeom et al. 2018, Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting (loss-threshold attack)",
               "Carlini et al. 2022, Membership Inference Attacks From First Principles (true positives at a low false positive rate)",
               "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """Scores of positives and of negatives on both sides."""
        scope.require_binary()
        columns = ("@score", "@label", "@cluster")
        scope.require_target(*columns)
        scope.require_reference(*columns)
        return Needs.of(both=[scope.bucketed(ScoreLabel()), *user_counts(scope)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        stat = scope.bucketed(ScoreLabel())
        held_out, train = target.get_summary(stat), reference.get_summary(stat)
        new, old = held_out.total, train.total
        for side, total in (("the held-out rows", new), ("the training rows", old)):
            require_classes(total.positive, total.count, side, least=OF_A_CLASS)
        positives = int(new.positive + old.positive)
        attack = jackknife([held_out, train], lambda t: _attack(t[0], t[1]), unit="AUC of telling training rows from others", n=positives, of="positive rows")
        raw, control = _higher(old.positives, new.positives), _higher(old.negatives, new.negatives)
        verdict, estimate, limit = verdict_above(attack, fail=LIMIT), attack, LIMIT
        claim = (f"A loss threshold tells a positive training row from a positive held-out one with AUC {between(attack, 3)} ({positives:,} positive rows; 0.5 is chance)"
                 f", {raw:.3f} before taking off that negatives score {'higher' if control > 0.5 else 'no higher'} too ({control:.3f}).")
        if new.positive * FALSE_RATE >= 1:
            caught = jackknife([held_out, train], lambda t: _caught(t[0], t[1]), unit=f"share of training positives caught at {percent(FALSE_RATE)} false alarms",
                               n=positives, of="positive rows")
            claim += f" Where {percent(FALSE_RATE)} of others may be taken for training rows, {percent(caught.value)} of training rows are caught (chance: {percent(FALSE_RATE)})."
            if verdict is Verdict.PASS and caught.surely_above(CAUGHT) and control <= LIVELY:
                verdict, estimate, limit = Verdict.WARN, caught, CAUGHT
        else:
            claim += f" Fewer than {1 / FALSE_RATE:,.0f} held-out positives: what is caught at {percent(FALSE_RATE)} false alarms cannot be measured."
        strangers = share_of_strangers(target, reference, scope)
        if strangers > STRANGERS and verdict is not Verdict.PASS:
            verdict = Verdict.WARN
            claim += (f" {percent(strangers)} of the held-out rows are of users that training never saw, so this tells people whom the model knows from strangers "
                      "as much as rows from rows.")
        start = "Scores do not give away which rows were trained on. " if verdict is Verdict.PASS else "Scores give away which rows were trained on. "
        yield Finding(
            code=self.code, verdict=verdict, claim=start + claim, estimate=estimate, limit=limit, neutral=0.5 if estimate is attack else FALSE_RATE,
            threshold=f"FAIL when the AUC is surely above {LIMIT:.2f}; WARN when its value is, or when surely more than {percent(CAUGHT)} are caught "
                      f"at {percent(FALSE_RATE)} false alarms and negatives score no higher in training (at most {LIVELY:.2f}); {THRESHOLD}",
            meaning="Who sees scores can then tell what a person clicked: a matter of privacy, and a sign of memorised rows.",
            causes=("rows learned by heart: several epochs, wide embeddings of rare ids (see training.memorisation)",
                    "held-out rows are harder for another reason: later in time, of ids that training has not"),
            remedies=(Remedy(code="stop_after_one_epoch", text="Train for one epoch."),
                      Remedy(code="raise_minimum_count", text="Let rare ids share one embedding (minimum_count)."),
                      Remedy(code="hold_out_at_random", text="To rule out time, keep back some rows of the training period at random and examine these.")),
            evidence=(_curve(old, new),), sources=self.sources)


def _attack(new: ScoreLabelSummary, old: ScoreLabelSummary) -> float:
    """AUC of the attack on positives, less what the score of negatives is higher by."""
    return _higher(old.positives, new.positives) - max(0.0, _higher(old.negatives, new.negatives) - 0.5)


def _higher(one: Floats, other: Floats) -> float:
    """P(a row of one scores above a row of the other) + P(equal) / 2; arrays of weight per score bin, ascending."""
    pairs = one.sum() * other.sum()
    if not pairs:
        return np.nan
    return float((one * (np.cumsum(other) - other / 2)).sum() / pairs)


def _caught(new: ScoreLabelSummary, old: ScoreLabelSummary) -> float:
    """Share of training positives above the score that `FALSE_RATE` of held-out positives exceed; inside a bin in proportion."""
    outsiders = np.append(0.0, np.cumsum(new.positives[::-1])) / max(new.positive, 1e-300)
    members = np.append(0.0, np.cumsum(old.positives[::-1])) / max(old.positive, 1e-300)
    last = int(np.searchsorted(outsiders, FALSE_RATE, side="right"))  # the first place above the rate
    before, after = outsiders[last - 1], outsiders[min(last, len(outsiders) - 1)]
    part = (FALSE_RATE - before) / (after - before) if after > before else 0.0
    return float(members[last - 1] + part * (members[min(last, len(members) - 1)] - members[last - 1]))


def _curve(old: ScoreLabelSummary, new: ScoreLabelSummary) -> Curve:
    """The attack's ROC curve at up to 101 places."""
    x = np.append(0.0, np.cumsum(new.positives[::-1])) / new.positive
    y = np.append(0.0, np.cumsum(old.positives[::-1])) / old.positive
    at = np.linspace(0, 1, 101)
    keep = np.append(True, np.diff(x) > 0)
    ys = np.interp(at, x[keep], np.maximum.reduceat(y, np.flatnonzero(keep)))
    places = tuple(at.tolist())
    return Curve(title="How many training positives does the attack catch, at how many false alarms?", x_title="held-out positives taken for training rows", y_title="training positives caught",
                 lines=(Line(name="loss threshold", x=places, y=tuple(ys.tolist())), Line(name="chance", x=places, y=places, role="reference")),
                 caption=f"{old.positive:,.0f} training and {new.positive:,.0f} held-out positives")
