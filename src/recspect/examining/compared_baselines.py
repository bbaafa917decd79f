"""Contributions of fields from two baselines side by side: where they rank fields differently, a ranking says more about the baseline than about the model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.evidence import Bars, Evidence
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError

COMPARED_ROWS, FIELDS = 1024, 12
"""Held-out rows that are explained twice, and fields that are shown."""


def compared_baselines(subject: TorchSubject, sample: Batch, say: Callable[[str], None]) -> tuple[Evidence, ...]:
    """Shares of all contributions from the mean of the rows, and from another row drawn at random for each.

    Args:
        subject: The model.
        sample: Rows to explain.
        say: Told why nothing is shown where the model cannot be explained.

    Returns:
        One picture; none where no field contributes, or the model cannot be explained.
    """
    from recspect.diagnosis.probes.attribution import baseline_sensitivity

    try:
        found = baseline_sensitivity(subject, sample)
    except SubjectError as reason:
        say(f"comparing baselines is left out: {reason}")
        return ()
    total = found.reliance.sum(1)
    if not (total > 0).all():
        return ()
    shares = found.reliance / total[:, None]
    order = np.argsort(-shares[0], kind="stable")[:FIELDS]
    names = [name for name in ("from the mean row", "from another row") for _ in order]
    agreement = "" if math.isnan(found.least) else f"; rank correlation of the {len(found.fields)} fields {found.least:.2f}"
    return (Bars(title="Do fields count alike from another baseline?", unit="share of all contributions",
                 names=tuple(found.fields[f] for f in order) * 2, values=tuple(float(shares[which, f]) for which in range(2) for f in order),
                 group=tuple(names), caption=f"{found.rows:,} held-out rows, explained from two baselines{agreement}", stage="features"),)
