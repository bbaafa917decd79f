"""A report such as a run over KuaiRand-like data gives: the figures are invented, the shapes are those of real runs."""

import math

import numpy as np

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import (
    Bars,
    Curve,
    DistributionPair,
    HeatMap,
    Line,
    RankedTable,
    Reasons,
    Scatter,
    StageGraph,
)
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict

FIELDS = ("user_id", "video_id", "author_id", "tab", "hour", "duration_ms", "music_id", "follow_count_range", "onehot_feat3",
          "video_type", "upload_days", "register_days", "is_live_streamer", "tag")
EPOCHS = (1.0, 2.0, 3.0)


def evidence_of_every_kind():
    """One piece of ordinary evidence per kind, by kind."""
    rng = np.random.default_rng(7)
    steps = np.arange(0, 4200, 2)
    loss = 0.56 + 0.16 * np.exp(-steps / 500) + 0.012 * rng.standard_normal(len(steps))
    deciles = np.linspace(0.08, 0.72, 10)
    x = rng.lognormal(4, 1.4, 900)
    values = rng.uniform(0.2, 1.0, (6, 5))
    values[2, 3] = math.nan
    return {
        "curve": Curve(
            title="How does the loss fall while training?", x_title="step", y_title="log loss (nats)",
            lines=(Line(name="batch", x=tuple(steps), y=tuple(loss), role="reference"),
                   Line(name="held-out", x=(1400.0, 2800.0, 4200.0), y=(0.581, 0.589, 0.597), low=(0.578, 0.586, 0.593), high=(0.584, 0.592, 0.601))),
            marks=((1400.0, "end of epoch 1"), (2800.0, "end of epoch 2")), caption="913,316 rows a pass, batches of 2,048"),
        "bars": Bars(
            title="Which fields does the model use, and which help?", unit="fall of AUC when the field is shuffled, and share of attribution",
            names=FIELDS[:7] * 2, values=(0.061, 0.034, 0.021, 0.018, 0.004, 0.0031, -0.0009, 0.41, 0.22, 0.12, 0.1, 0.05, 0.06, 0.04),
            low=(0.055, 0.03, 0.018, 0.015, 0.002, 0.001, -0.002, 0.39, 0.2, 0.11, 0.09, 0.04, 0.05, 0.03),
            high=(0.067, 0.038, 0.024, 0.021, 0.006, 0.0052, 0.0002, 0.43, 0.24, 0.13, 0.11, 0.06, 0.07, 0.05),
            group=("usefulness",) * 7 + ("reliance",) * 7, caption="20,000 held-out rows, 5 repetitions"),
        "heat_map": HeatMap(
            title="In which layers are units dead?", unit="share of units never active", rows=tuple(f"layer {i}" for i in range(1, 7)),
            columns=("step 500", "step 1,000", "epoch 1", "epoch 2", "epoch 3"), values=tuple(map(tuple, values)), row_title="layer",
            column_title="when", caption="8,192 held-out rows; – not measured"),
        "distribution_pair": DistributionPair(
            title="Has the age of videos changed between train and held-out?", x_title="days since upload",
            bins=("0", "1", "2", "3–4", "5–7", "8–14", "15–30", "over 30"), target=(0.21, 0.19, 0.14, 0.13, 0.12, 0.1, 0.07, 0.04),
            reference=(0.34, 0.22, 0.13, 0.11, 0.08, 0.06, 0.04, 0.02), caption="PSI 0.14; 228,329 held-out rows, 913,316 in training"),
        "scatter": Scatter(
            title="Do popular videos get longer vectors?", x_title="times seen in training", y_title="length of the embedding",
            x=tuple(x), y=tuple(0.25 * np.log(x) + 0.2 * rng.standard_normal(900) + 1), log_x=True, caption="900 of 7,551 videos, drawn by hash"),
        "ranked_table": RankedTable(
            title="Which slices are worst?", columns=("slice", "rows", "log loss", "against the rest"),
            rows=(("tab=2, user unseen", 4211, 0.6931, 0.1123), ("author unseen", 10342, 0.6612, 0.0804), ("hour=3", 2311, 0.6402, 0.0594),
                  ("duration over 120 s", 17888, 0.6377, None)), caption="slices of at least 500 rows, Benjamini-Hochberg over 214 slices"),
        "reasons": Reasons(
            title="Why is this field suspected?", items=(
                "Alone, it ranks clicks with AUC 0.913; the whole model reaches 0.736.",
                "Its value at the time of the row already contains the row's own click in 99.2% of rows.",
                "Its mean per video equals the click rate of the whole file, also for rows of the first day."), caption="228,329 rows"),
        "stage_graph": StageGraph(
            title="Where do rows get lost on the way to the model?",
            nodes=(("logged impressions", 1436609.0), ("with a known user", 1411200.0), ("dropped: bot traffic", 25409.0),
                   ("training", 1128960.0), ("held-out", 282240.0)),
            edges=(("logged impressions", "with a known user", 1411200.0), ("logged impressions", "dropped: bot traffic", 25409.0),
                   ("with a known user", "training", 1128960.0), ("with a known user", "held-out", 282240.0)), caption="one day of March"),
        "_deciles": Curve(
            title="Do predicted probabilities agree with what happened?", x_title="predicted", y_title="observed click rate",
            lines=(Line(name="perfect", x=(0.0, 0.8), y=(0.0, 0.8), role="ideal"),
                   Line(name="held-out", x=tuple(deciles), y=tuple(deciles + 0.01 * np.sin(9 * deciles)),
                        low=tuple(deciles - 0.012), high=tuple(deciles + 0.018))), caption="ten bins of equal size, 228,329 rows"),
    }


def kuairand_like_report():
    """FAIL, WARN, UNKNOWN and PASS, evidence of all kinds, overview of all stages."""
    e = evidence_of_every_kind()
    epochs = Curve(
        title="Does held-out AUC still rise?", x_title="pass over the data", y_title="AUC",
        lines=(Line(name="train", x=EPOCHS, y=(0.815, 0.829, 0.843), role="reference"),
               Line(name="held-out", x=EPOCHS, y=(0.736, 0.732, 0.727), low=(0.734, 0.73, 0.725), high=(0.738, 0.734, 0.729), role="fault")),
        marks=((1.0, "best"),), caption="25,156 users, intervals over 50 user buckets")
    by_exposures = Bars(
        title="Which users does the model memorise?", unit="gap of AUC, train minus held-out",
        names=("under 5 exposures", "5 to 19", "20 to 99", "100 and more"), values=(0.214, 0.131, 0.066, 0.031),
        low=(0.201, 0.124, 0.061, 0.027), high=(0.227, 0.138, 0.071, 0.035), highlighted=("under 5 exposures",), caption="users by rows in training")
    slices = Bars(
        title="Is any slice miscalibrated?", unit="predicted / observed clicks", names=("tab=0", "tab=1", "tab=2", "new users", "new videos"),
        values=(1.002, 0.997, 1.021, 0.981, 1.034), low=(0.98, 0.985, 0.97, 0.94, 0.99), high=(1.02, 1.01, 1.07, 1.02, 1.08), reference=1.0,
        caption="228,329 rows, intervals corrected for 14 slices")
    spectra = Curve(
        title="How many directions do the embeddings use?", x_title="direction", y_title="singular value / largest", log_y=True,
        lines=tuple(Line(name=name, x=tuple(range(1, 17)), y=tuple(np.exp(-np.arange(16) * rate)))
                    for name, rate in (("user_id", 0.06), ("video_id", 0.11), ("author_id", 0.19), ("music_id", 0.55), ("tag", 0.12), ("tab", 0.3))),
        caption="16 dimensions; a table that uses few falls fast")
    baselines = Bars(
        title="Is the model better than simple baselines?", unit="AUC", names=("DeepFM", "click rate per video", "click rate per user", "popularity"),
        values=(0.727, 0.641, 0.688, 0.573), low=(0.725, 0.639, 0.686, 0.571), high=(0.729, 0.643, 0.69, 0.575), reference=0.5, highlighted=("DeepFM",),
        caption="228,329 held-out rows")
    popularity = Curve(
        title="How much of the exposure goes to how many videos?", x_title="share of videos, most exposed first", y_title="share of exposures",
        lines=(Line(name="equal", x=(0.0, 1.0), y=(0.0, 1.0), role="ideal"),
               Line(name="history", x=tuple(np.linspace(0, 1, 60)), y=tuple(1 - (1 - np.linspace(0, 1, 60)) ** 3), role="reference"),
               Line(name="top 10 lists", x=tuple(np.linspace(0, 1, 60)), y=tuple(1 - (1 - np.linspace(0, 1, 60)) ** 9))), caption="7,551 videos, 25,156 users")
    correlation = HeatMap(
        title="Which numeric fields move together?", unit="rank correlation", rows=FIELDS[:6], columns=FIELDS[:6], diverging=True,
        values=tuple(tuple(float(np.cos(2.1 * (i - j)) / (1 + abs(i - j))) for j in range(6)) for i in range(6)), caption="50,000 rows")
    findings = (
        Finding(
            code="training.overfitting", verdict=Verdict.FAIL,
            claim="The model memorises users after the first pass: held-out AUC falls from 0.736 to 0.727 (25,156 users) while training AUC rises "
                  "from 0.815 to 0.843. Most of the loss is in users with fewer than 5 exposures.",
            estimate=Estimate(value=-0.009, low=-0.011, high=-0.007, unit="held-out AUC, last pass against the first", n=25156, of="users"),
            threshold="the whole interval below 0", meaning="Every further pass makes the recommendations worse while the training loss says the opposite.",
            causes=("Embeddings of rarely seen ids fit their few rows exactly (the one-epoch phenomenon).", "Too little regularisation of the tables.",
                    "A learning rate that suits dense weights but not sparse ones."),
            remedies=(Remedy(code="one_epoch", text="Train one pass.", command="recspect train data/kuairand --schema schema.toml --epochs 1"),
                      Remedy(code="reinitialise_embeddings", text="Start every further pass with fresh embeddings (MEDA)."),
                      Remedy(code="rare_ids", text="Let ids seen fewer than 5 times share one row.", command="recspect train data/kuairand --minimum-count 5")),
            evidence=(epochs, by_exposures),
            sources=("Zhang et al., Towards Understanding the Overfitting Phenomenon of Deep Click-Through Rate Models, CIKM 2022",)),
        *(Finding(
            code="data.target_leak", verdict=Verdict.FAIL, place=Place(kind="field", name=name),
            claim=f"'{name}' tells the answer: alone it ranks clicks with AUC {auc:.3f}, the whole model without it reaches 0.736.",
            estimate=Estimate(value=auc, low=auc - 0.004, high=auc + 0.004, unit="AUC of the field alone", n=228329), threshold="above 0.9, or above the model by 0.05",
            meaning="The model looks good offline and fails when the field is not yet known at serving time.",
            causes=("A statistic computed over the whole period, the row itself included.", "A column filled after the outcome."),
            remedies=(Remedy(code="drop_field", text="Leave the field out and train again.", command=f"recspect train data/kuairand --without {name}"),),
            evidence=(e["reasons"],) if auc > 0.91 else (), sources=("Kaufman et al., Leakage in Data Mining, TKDD 2012",))
          for name, auc in (("video_click_rate", 0.913), ("video_play_count", 0.904))),
        Finding(
            code="embeddings.collapse", verdict=Verdict.WARN, place=Place(kind="table", name="music_id"),
            claim="The vectors of music_id use about 2 of 16 directions: effective rank 2.31 of 16, the other tables use 9 to 14.",
            estimate=Estimate(value=2.31, low=2.2, high=2.43, unit="effective rank of 16", n=4212, of="rows of the table"), threshold="below 0.7 of a healthy table",
            meaning="Most of the table's memory holds nothing.", causes=("Interaction with fields of few values.", "Strong weight decay."),
            remedies=(Remedy(code="smaller_dimension", text="Give the table 4 dimensions and compare."),), evidence=(e["scatter"],),
            sources=("Guo et al., On the Embedding Collapse when Scaling up Recommendation Models, ICML 2024",)),
        Finding(
            code="data.drift", verdict=Verdict.WARN, place=Place(kind="field", name="upload_days"),
            claim="Held-out videos are older: PSI 0.14 between training and held-out rows.",
            estimate=Estimate(value=0.14, low=0.13, high=0.15, unit="PSI", n=228329), threshold="above 0.1 and above chance", evidence=(e["distribution_pair"],),
            causes=("The held-out days come later.",), remedies=(Remedy(code="recent_data", text="Train on more recent rows."),),
            sources=("Yurdakul and Naranjo, Statistical properties of the population stability index, 2020",)),
        Finding(code="effects.off_policy", verdict=Verdict.UNKNOWN,
                claim="These logs cannot say what the new policy would earn: no column has the role 'propensity'.",
                remedies=(Remedy(code="log_propensity", text="Log the probability with which each video was shown, with 5% random slots."),)),
        Finding(code="features.train_serve_skew", verdict=Verdict.UNKNOWN, claim="No table of features as they were served was given."),
        Finding(code="recommendations.coverage", verdict=Verdict.UNKNOWN, place=Place(kind="slice", name="tab=4"),
                claim="Only 37 users have lists in this slice; 100 are needed."),
        Finding(code="predictions.calibration", verdict=Verdict.PASS,
                claim="Predicted and observed clicks agree: ratio 1.004, no slice of 14 is off after correction.",
                estimate=Estimate(value=1.004, low=0.991, high=1.017, unit="predicted / observed clicks", n=228329), evidence=(e["_deciles"], slices),
                sources=("Pan et al., Field-aware Calibration, WWW 2020",)),
        Finding(code="predictions.normalised_entropy", verdict=Verdict.PASS, claim="The model explains 13% of the entropy of clicks.",
                estimate=Estimate(value=0.869, low=0.866, high=0.872, unit="log loss / entropy", n=228329), sources=("He et al., Practical Lessons, ADKDD 2014",)),
        Finding(code="training.dead_units", verdict=Verdict.PASS, claim="No layer has more than 31% of its units dead.", evidence=(e["heat_map"],),
                estimate=Estimate(value=0.31, unit="share of units dead in the worst layer", n=8192)),
        Finding(code="data.duplicates", verdict=Verdict.PASS, claim="No row of the held-out part is also in training.",
                estimate=Estimate(value=0.0, unit="rows in both parts", n=228329)),
    )
    return Report(
        title="KuaiRand-Pure click, DeepFM", findings=findings,
        overview=(e["stage_graph"], correlation, e["bars"], e["curve"], spectra, baselines, e["_deciles"], e["ranked_table"], popularity),
        provenance={
            "run": "12", "created": "2026-03-14T10:22:31Z", "command": "recspect train data/kuairand --schema schema.toml --epochs 3 --seed 1",
            "data": {"name": "KuaiRand-Pure", "rows": 1141645, "fingerprint": "sha256:5d41402abc4b2a76b9719d911017c592ae3f1b2cbb0a7c7b22e1a0e47f9a5b1e"},
            "schema": {"user": "user_id", "item": "video_id", "time": "time_ms", "labels": ["is_click"], "fields": list(FIELDS)},
            "seeds": {"split": 0, "training": 1}, "versions": {"recspect": "0.1.0", "torch": "2.13.0", "numpy": "2.4.1", "polars": "2.1.0"}})
