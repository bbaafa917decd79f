"""From a metric file and a table of experiments to a metric in use: files, history, proposals, judging, watching, and the commands."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from recspect.adapting import fitting, proposing
from recspect.adapting.history import FILE, History
from recspect.adapting.judging import judge
from recspect.adapting.metric_file import MetricFile
from recspect.adapting.picture import picture, told
from recspect.adapting.watching import watch
from recspect.errors import DataError, RecspectError, RunError, UsageError
from recspect.experimenting.experiment import Corpus
from recspect.experimenting.tables import read_experiments, write_experiments
from recspect.worlds.experiments import BELIEFS, PILOT

DECLARED = """
name = "pilot"
[north_star]
name = "north_star"
[decision]
cost_false_ship = 3
cost_missed = 1
""" + "".join(f"[metrics.metric_{k + 1}]\nbelief = {belief}\n" for k, belief in enumerate(BELIEFS))

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def declared(text=DECLARED, *, folder=None, name="metrics.toml"):
    path = folder / name
    path.write_text(text)
    return MetricFile.read(path)


@pytest.fixture
def file(tmp_path):
    return declared(folder=tmp_path)


# ------------------------------------------------------------------ the metric file


def test_a_metric_file_is_read_in_every_format(tmp_path, file):
    content = {"north_star": {"name": "back", "event": "purchase", "measure": "any", "window_days": 28}, "decision": {"prior_experiments": "auto", "smallest_effect": 0.01},
               "metrics": {"ctr": {"event": "click", "per": "exposure", "direction": "up", "belief": 0.5, "margin": 0.02}}}
    (tmp_path / "m.json").write_text(json.dumps(content))
    found = MetricFile.read(tmp_path / "m.json")
    (tmp_path / "m.yaml").write_text("north_star: {name: back, event: purchase, measure: any, window_days: 28}\ndecision: {prior_experiments: auto, smallest_effect: 0.01}\n"
                                     "metrics: {ctr: {event: click, per: exposure, direction: up, belief: 0.5, margin: 0.02}}\n")
    assert found == MetricFile.read(tmp_path / "m.yaml")
    assert found.names == ("back", "ctr")
    assert found.decision.prior_experiments is None
    assert (found.metrics[0].sign, found.metrics[0].margin) == (1, 0.02)
    assert file.decision.prior_experiments == 40


@pytest.mark.parametrize(("old", "new", "said"), [
    ("cost_missed = 1", "cost_missed = 0", "cost_missed is 0"), ("cost_missed = 1", "cost_mised = 1", "'cost_mised'"), ("belief = 0.7", "belief = 1.7", "belief is 1.7"),
    ("belief = 0.7", 'belief = "high"', "expected a number"), ("belief = 0.7", 'belief = 0.7\ndirection = "down"', "contradict"), ("belief = 0.7", "colour = 3", "'colour'"),
    ("belief = 0.7", 'measure = "mean"', "measures: count"), ("[north_star]", "[star]", "'star'"), ("cost_missed = 1", "most_metrics = 2.5", "whole number"),
    ("belief = 0.7", "belief = 0.7\nmargin = -1", "margin is -1"), ("metrics.metric_2", "metrics.north_star", "twice"), ("cost_missed = 1", "step = 3", "step is 3"),
    ("cost_missed = 1", "cost_missed = nan", "expected a number"), ("belief = 0.7", 'event = "click"\nmeasure = "any"\nper = "exposure"', "no ratio"),
    ("belief = 0.7", "belief = true", "expected a number"), ('name = "pilot"', "name = 3", "expected a text"), ('name = "pilot"', 'effect = "log"', "effects: absolute")])
def test_mistakes_in_a_metric_file_are_told(tmp_path, old, new, said):
    with pytest.raises(RecspectError, match=said) as caught:
        declared(DECLARED.replace(old, new, 1), folder=tmp_path)
    assert isinstance(caught.value, UsageError)


def test_a_missing_or_broken_metric_file_is_told(tmp_path):
    with pytest.raises(UsageError, match="no metric file"):
        MetricFile.read(tmp_path / "no.toml")
    with pytest.raises(RecspectError, match="not valid TOML"):
        declared("name = ", folder=tmp_path)
    with pytest.raises(UsageError, match=r"\[metrics\]"):
        declared('[north_star]\nname = "n"\n', folder=tmp_path)


# ------------------------------------------------------------------ tables of experiments


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_experiments_survive_a_table(tmp_path, ending):
    corpus, _ = replace(PILOT, users_spread=10.0, immature_last=2, family_size=3).draw(9, 0)
    gone = Corpus.of([e.of_metrics(e.metrics[:-1]) if k == 4 else e for k, e in enumerate(corpus)], PILOT.metrics)
    table, path = write_experiments(gone), tmp_path / f"e.{ending}"
    table.write_parquet(path) if ending == "parquet" else table.write_csv(path)
    found = read_experiments(path, PILOT.metrics)
    assert np.allclose(found.effects, gone.effects, equal_nan=True)
    assert np.allclose(found.noise, gone.noise, equal_nan=True)
    for one, other in zip(found, gone, strict=True):
        assert (one.name, one.users, one.family, one.end, one.maturity) == (other.name, other.users, other.family, other.end, other.maturity)


def arms(experiment="e", users=1000, **change):
    rows = [{"experiment": experiment, "arm": arm, "metric": metric, "users": users, "mean": mean, "variance": variance}
            for arm, mean in (("control", 2.0), ("new", 2.2)) for metric, variance in (("n", 4.0), ("m", 1.0))]
    return [{**row, **change} for row in rows]


def test_arms_are_compared_by_their_means():
    found = read_experiments(pl.DataFrame(arms()), ("n", "m"), noise_correlation=0.5).experiments[0]
    assert found.effects == pytest.approx([0.2, 0.2])
    assert found.noise == pytest.approx(np.array([[0.008, 0.002], [0.002, 0.002]]))
    assert found.noise[0, 1] == pytest.approx(0.5 * np.sqrt(0.008 * 0.002))
    relative = read_experiments(pl.DataFrame(arms()), ("n", "m"), noise_correlation=0.5, relative=True).experiments[0]
    assert relative.effects == pytest.approx(np.log([1.1, 1.1]))
    assert relative.noise[0, 0] == pytest.approx(0.004 / 2.2**2 + 0.004 / 2.0**2)


def test_arms_that_share_a_control_are_a_family():
    more = [{**row, "arm": "other"} for row in arms() if row["arm"] == "new"]
    found = read_experiments(pl.DataFrame([*arms(), *more]), ("n", "m"), noise_correlation=0.0)
    assert sorted(e.name for e in found) == ["e: new", "e: other"]
    assert len(set(found.groups.tolist())) == 1


def test_snapshots_tell_how_errors_go_together():
    generator, rows = np.random.default_rng(0), []
    chol = np.linalg.cholesky([[1.0, 0.8], [0.8, 1.0]])
    for experiment in range(12):
        totals = {arm: np.zeros(2) for arm in ("control", "new")}
        for day in range(1, 21):
            for arm in totals:
                totals[arm] += (generator.normal(size=(50, 2)) @ chol.T).sum(0) + 50 * (0.1 if arm == "new" else 0)
                rows += [{"experiment": f"e{experiment}", "arm": arm, "metric": metric, "users": 50 * day, "mean": totals[arm][k] / (50 * day), "variance": 1.0, "time": float(day)}
                         for k, metric in enumerate(("n", "m"))]
    found = read_experiments(pl.DataFrame(rows), ("n", "m"))
    assert len(found) == 12
    assert found.noise[0, 0, 1] / found.noise[0, 0, 0] == pytest.approx(0.8, abs=0.08)
    assert found.experiments[0].users == (1000, 1000)
    assert np.sqrt(found.noise[0, 0, 0]) == pytest.approx(np.sqrt(2 / 1000))


@pytest.mark.parametrize(("rows", "correlation", "said"), [
    (arms(arm="new"), 0.5, "two results"), ([row for row in arms() if row["arm"] == "new"], 0.5, "no arm named 'control'"), (arms(), None, "how the errors of its metrics go together"),
    (arms(metric="other"), 0.5, "measures none of"), ([row for row in arms() if row["metric"] == "n"], 0.5, "no experiment measured 'm'"), (arms(mean=float("inf")), 0.5, "expected a number"),
    ([{**row, "end": "tomorrow"} for row in arms()], 0.5, "no time"), ([{"experiment": "e", "effect": 1.0}], 0.5, "no table of experiments")])
def test_tables_that_cannot_be_read_are_told(rows, correlation, said):
    with pytest.raises(DataError, match=said):
        read_experiments(pl.DataFrame(rows), ("n", "m"), noise_correlation=correlation)


def test_covariances_are_all_there_or_none():
    table = write_experiments(PILOT.draw(3, 0)[0])
    lacking = table.filter(~((pl.col("metric") == "metric_1") & (pl.col("other") == "metric_2")).fill_null(value=False))
    with pytest.raises(DataError, match="lacks covariances"):
        read_experiments(lacking, PILOT.metrics)
    twice = pl.concat([table, table.filter(pl.col("other").is_null())])
    with pytest.raises(DataError, match="two effects"):
        read_experiments(twice, PILOT.metrics)


# ------------------------------------------------------------------ fitting, proposals, history


def test_what_is_not_final_or_kept_apart_is_not_fitted_on(file):
    corpus, _ = replace(PILOT, immature_last=10).draw(100, 0)
    kept = fitting.to_fit_on(corpus, file)
    assert {e.name for e in corpus} - {e.name for e in kept} == {e.name for e in corpus if fitting.kept_apart(e, 0.05)}
    assert 0 < len(corpus) - len(kept) < 15
    assert [e.name for e in kept if not e.measured[0]] == [e.name for e in corpus if e.maturity < 1 and not fitting.kept_apart(e, 0.05)]
    family, _ = replace(PILOT, family_size=4).draw(100, 0)
    for group in {e.group for e in family}:
        assert len({fitting.kept_apart(e, 0.3) for e in family if e.group == group}) == 1


def test_the_first_metric_is_the_belief_and_few_experiments_keep_it(file):
    kept = fitting.to_fit_on(PILOT.draw(40, 1)[0], file)
    history = proposing.first_release(kept, file, History(), scene="", now=NOW)
    release = history.require_current()
    assert release.by == "first"
    shown = dict(zip(release.metrics, release.shown, strict=True))
    assert shown["metric_1"] > 0
    assert shown["metric_2"] > 0
    assert shown["metric_6"] <= 0  # believed to say nothing of the north star; takes noise out of the others
    assert proposing.first_release(kept, file, history, scene="", now=NOW) is history
    proposal, comparison = proposing.propose(kept, file, history, draws=0, now=NOW)
    assert not proposal.passed
    assert comparison is not None
    assert proposal.reasons[0].startswith("no: 40 past experiments")  # none of these is kept apart


def test_a_wrong_belief_is_overcome_in_steps(tmp_path):
    """Past experiments replace a metric that points the wrong way, no faster than the step allows."""
    text = DECLARED
    for k, belief in enumerate(BELIEFS):
        text = text.replace(f"[metrics.metric_{k + 1}]\nbelief = {belief}\n", f"[metrics.metric_{k + 1}]\nbelief = {-0.8 * belief}\n")
    wrong = declared(text.replace("cost_missed = 1", "cost_missed = 1\njoint = false\nprior_experiments = 10"), folder=tmp_path)
    kept = fitting.to_fit_on(PILOT.draw(400, 2)[0], wrong)
    history = proposing.first_release(kept, wrong, History(), scene="", now=NOW)
    proposal, comparison = proposing.propose(kept, wrong, history, draws=10, now=NOW)
    assert comparison.gain > 0
    assert proposal.passed, proposal.reasons
    assert proposal.share < 1
    assert np.abs(proposal.release.shown - history.require_current().shown).sum() == pytest.approx(0.25)
    assert any("of the way" in line for line in proposal.explanation)
    adopted = history.with_proposal(proposal).decided(1, adopt=True, by="rule", why="", now=NOW)
    assert adopted.require_current().number == 2
    again, _ = proposing.propose(kept, wrong, adopted, draws=0, now=NOW + timedelta(days=3))
    assert any("has been in use for 3 days" in reason and reason.startswith("no: ") for reason in again.reasons)


def test_costs_move_the_bar_in_closed_form(file):
    kept = fitting.to_fit_on(PILOT.draw(80, 3)[0], file)
    bars = {}
    for ratio in (1.0, 3.0, 9.0):
        changed = replace(file, decision=replace(file.decision, cost_false_ship=ratio))
        release = proposing.release_of(fitting.fit_metric(kept, changed), changed)
        bars[ratio] = release.bar
    assert bars[1.0] == pytest.approx(0)
    assert bars[9.0] / bars[3.0] == pytest.approx(1.2815515655 / 0.6744897502)


def test_a_new_metric_begins_without_weight_and_one_that_is_gone_loses_it(tmp_path, file):
    kept = fitting.to_fit_on(PILOT.draw(80, 3)[0], file)
    release = proposing.first_release(kept, file, History(), scene="", now=NOW).require_current()
    other = declared(DECLARED.replace("metrics.metric_8", "metrics.fresh"), folder=tmp_path, name="other.toml")
    found = proposing.aligned(release, other)
    assert found.metrics[-1] == "fresh"
    assert found.weights[-1] == 0
    assert found.latent[-1, -1] == 1
    assert np.array_equal(found.weights[:-1], release.weights[:-1])
    with pytest.raises(UsageError, match="another metric"):
        proposing.aligned(release, replace(other, north_star=replace(other.north_star, name="else")))


def test_a_metric_that_is_new_does_not_stand_in_the_way(file):
    """Three experiments measured it, and are left out together; or none did."""
    whole = PILOT.draw(60, 3)[0]
    without = [name for name in PILOT.metrics if name != "metric_2"]
    kept = Corpus.of([replace(e.of_metrics(without) if k >= 3 else e, family="first" if k < 3 else "") for k, e in enumerate(whole)], PILOT.metrics)
    history = proposing.first_release(kept, file, History(), scene="", now=NOW)
    _, comparison = proposing.propose(kept, file, history, draws=12, now=NOW)
    assert comparison is not None
    never = Corpus.of([e.of_metrics(without) for e in whole], PILOT.metrics)
    assert fitting.fit_metric(never, file, draws=3).policy.weights[2] == 0
    immature = Corpus.of([e.of_metrics(e.metrics[1:]) for e in whole], PILOT.metrics)
    with pytest.raises(DataError, match="final 'north_star'"):
        fitting.fit_metric(immature, file)


def test_scenes_have_their_own_metric_and_borrow_one_until_then(file):
    corpus = Corpus((*(replace(e, scene="home") for e in PILOT.draw(80, 1)[0]), *(replace(e, name=f"s{e.name}", scene="search") for e in PILOT.draw(12, 2)[0])))
    kept = fitting.to_fit_on(corpus, file)
    history = proposing.first_release(kept, file, History(), scene="", now=NOW)
    assert history.require_current("search").scene == ""
    history = proposing.first_release(kept, file, history, scene="search", now=NOW)
    assert history.require_current("search").scene == "search"
    assert history.require_current("home").scene == ""
    proposal, _ = proposing.propose(kept, file, history, scene="search", draws=0, now=NOW)
    assert not proposal.passed  # twelve experiments
    with pytest.raises(DataError, match="scene 'mail'"):
        fitting.fit_metric(kept, file, scene="mail")


def test_a_history_survives_its_file_and_tells_damage(tmp_path, file):
    kept = fitting.to_fit_on(PILOT.draw(60, 3)[0], file)
    history = proposing.first_release(kept, file, History(), scene="", now=NOW)
    proposal, _ = proposing.propose(kept, file, history, draws=5, now=NOW)
    history = history.with_proposal(proposal).with_proposal(proposal)
    assert [one.status for one in history.proposals] == ["rejected", "open"]
    history.write(tmp_path / "m")
    found = History.read(tmp_path / "m")
    for one, other in zip((*found.releases, found.proposals[-1].release), (*history.releases, history.proposals[-1].release), strict=True):
        for name in one.__dataclass_fields__:
            a, b = getattr(one, name), getattr(other, name)
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, name
    assert found.proposals[-1].reasons == proposal.reasons
    with pytest.raises(UsageError, match="rejected already"):
        found.decided(1, adopt=True, by="person", why="", now=NOW)
    with pytest.raises(UsageError, match="no proposal 9"):
        found.open_proposal(9)
    path = tmp_path / "m" / FILE
    for damage in ("{", "[]", path.read_text().replace('"version": 1', '"version": 99'), path.read_text().replace('"weights"', '"wights"')):
        path.write_text(damage)
        with pytest.raises(RunError):
            History.read(tmp_path / "m")
    assert History.read(tmp_path / "new").releases == ()
    with pytest.raises(UsageError, match="no metric is in use"):
        History().require_current()


# ------------------------------------------------------------------ judging and watching


def in_use(file, seed=3, experiments=150):
    kept = fitting.to_fit_on(PILOT.draw(experiments, seed)[0], file)
    return replace(proposing.release_of(fitting.fit_metric(kept, file), file), number=1)


def test_ship_where_the_posterior_says_so_and_guardrails_hold(file):
    release = in_use(file)
    corpus, truth = PILOT.draw(400, 77)
    apart = [fitting.kept_apart(e, 0.05) for e in corpus]
    found = [judge(e, release, file) for e in corpus]
    assert [one.by == "north star alone" for one in found] == apart
    ship = np.array([one.ship for one in found])
    assert (truth[ship, 0] > 0).mean() > 0.7  # three in four were asked for, 30% of all are null
    assert truth[ship, 0].sum() > 0.3 * truth[truth[:, 0] > 0, 0].sum()
    guarded = replace(file, metrics=(replace(file.metrics[0], margin=0.5), *file.metrics[1:]))
    held = [judge(e, release, guarded) for e in corpus]
    assert all(one.ship <= two.ship for one, two in zip(held, found, strict=True))
    for one, experiment in zip(held, corpus, strict=True):
        assert (f"guardrail {guarded.metrics[0].name}" in " ".join(r for r in one.reasons if r.startswith("no: "))) == (experiment.effects[1] - 1.6449 <= -0.5)
    assert all(judge(e, release, file, fallback=True).by == "north star alone" for e in corpus)
    assert judge(corpus.experiments[0], release, file, widened=4.0).posterior.variance == pytest.approx(4 * found[0].posterior.variance)


def test_an_experiment_that_lacks_a_metric_is_judged_by_the_others(file):
    release = in_use(file)
    gone = Corpus.of([e.of_metrics([m for m in e.metrics if m != "metric_1"]) for e in PILOT.draw(3, 5)[0]], PILOT.metrics)
    found = judge(gone.experiments[1], release, replace(file, decision=replace(file.decision, apart=0.0)))
    assert found.by == "measured metrics"
    assert found.posterior.variance > judge(PILOT.draw(3, 5)[0].experiments[1], release, replace(file, decision=replace(file.decision, apart=0.0))).posterior.variance
    nothing = Corpus.of([e.of_metrics(["metric_8"]) for e in PILOT.draw(1, 5)[0]], PILOT.metrics).experiments[0]
    if not release.weights[-1]:
        with pytest.raises(DataError, match="no metric that carries weight"):
            judge(nothing, release, file)


def test_where_users_vary_each_experiment_has_its_own_weights(file):
    world = replace(PILOT, users_spread=100.0)
    kept = fitting.to_fit_on(world.draw(300, 3)[0], file)
    release = replace(proposing.release_of(fitting.fit_metric(kept, file), file), number=1)
    corpus, truth = world.draw(800, 77)
    fixed, own = ([judge(e, release, replace(file, decision=replace(file.decision, apart=0.0, by_size=by_size))) for e in corpus] for by_size in (False, True))
    assert {one.by for one in own} == {"weights for its size"}
    correlation = [np.corrcoef([one.posterior.mean for one in found], truth[:, 0])[0, 1] for found in (fixed, own)]
    assert correlation[1] > correlation[0]
    assert np.mean([one.posterior.variance for one in own]) < np.mean([one.posterior.variance for one in fixed])


def test_recent_experiments_count_more(file):
    old = PILOT.draw(200, 1)[0]
    turned = replace(PILOT, correlation=tuple(-r for r in PILOT.correlation)).draw(200, 2)[0]
    both = Corpus((*old, *(replace(e, name=f"new {e.name}") for e in turned)))
    free = replace(file, decision=replace(file.decision, prior_experiments=5.0, joint=False))
    alike, forgetful = (fitting.fit_metric(both, free, recent=recent).policy.latent[0, 1] for recent in (None, 60))
    assert forgetful < 0 < alike + 0.2
    assert forgetful < alike


def test_scenes_that_differ_are_told(file):
    turned = replace(PILOT, correlation=tuple(-r for r in PILOT.correlation))
    corpus = Corpus((*(replace(e, scene="home") for e in PILOT.draw(100, 1)[0]), *(replace(e, name=f"s{e.name}", scene="search") for e in turned.draw(100, 2)[0])))
    kept = fitting.to_fit_on(corpus, file)
    history = proposing.first_release(kept, file, History(), scene="", now=NOW)
    proposal, _ = proposing.propose(kept, file, history, draws=0, now=NOW)
    assert any("I squared" in line and "home" in line for line in proposal.explanation)


def test_watching_is_quiet_in_health_and_names_what_changed(file):
    release = in_use(file)
    healthy = watch(Corpus(tuple(replace(e, name=f"new {e.name}") for e in PILOT.draw(25, 50)[0])), release, file, draws=100)
    assert healthy.alarms == ()
    assert healthy.widening == 1
    moved = Corpus(tuple(replace(e, name=f"new {e.name}", effects=e.effects - 2.5 * (np.arange(9) == 0)) for e in PILOT.draw(25, 50)[0]))
    found = watch(moved, release, file, draws=100)
    assert any("promised" in alarm for alarm in found.alarms)
    assert found.surprises.below[-1] > 5
    assert found.widening > 1
    with pytest.raises(DataError, match="not fitted on"):
        watch(Corpus.of([e for e in PILOT.draw(150, 3)[0] if e.name in release.experiments], PILOT.metrics), release, file)


def test_the_history_is_told_and_drawn(file):
    kept = fitting.to_fit_on(PILOT.draw(60, 3)[0], file)
    history = proposing.first_release(kept, file, History(), scene="", now=NOW)
    proposal, _ = proposing.propose(kept, file, history, draws=20, now=NOW)
    history = history.with_proposal(proposal)
    assert any("the gate does not pass it" in line for line in told(history))
    history = history.decided(1, adopt=True, by="person", why="<b>why</b>", now=NOW)
    report = picture(history)
    assert report.findings[0].verdict.value in ("PASS", "WARN")
    assert picture(proposing.first_release(kept, file, History(), scene="", now=NOW)).findings[0].verdict.value == "UNKNOWN"
    titles = [evidence.title for evidence in report.overview]
    assert "How did the weights move from release to release?" in titles
    bars = report.overview[0]
    assert 0.9 < sum(abs(value) for value in bars.values) < 1 + 1e-9  # a step between opposite signs takes away
    assert "in use" in next(evidence for evidence in report.overview if evidence.title.startswith("Which metrics see more")).names
    assert all(low <= value <= high for low, value, high in zip(bars.low, bars.values, bars.high, strict=True))
    from recspect.report import html

    page = html.render(report)
    assert "<b>why</b>" not in page
    assert "What does the metric weigh?" in page


# ------------------------------------------------------------------ commands


def recspect(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "recspect.cli", "metrics", *map(str, arguments)], capture_output=True, text=True, timeout=180, check=False, cwd=cwd)


def test_the_commands_go_round(tmp_path):
    (tmp_path / "m.toml").write_text(DECLARED)
    write_experiments(PILOT.draw(70, 3)[0]).write_parquet(tmp_path / "past.parquet")
    later = write_experiments(Corpus(tuple(replace(e, name=f"new {e.name}", effects=e.effects - 2.5 * (np.arange(9) == 0)) for e in PILOT.draw(25, 50)[0])))
    later.write_csv(tmp_path / "later.csv")
    done = recspect("fit", "m.toml", "--experiments", "past.parquet", "--draws", 10, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "proposal 1: the gate does not pass it" in done.stdout
    assert "--adopt 1" in done.stderr
    assert recspect("decide", "--adopt", 1, "--why", "we trust it", cwd=tmp_path).stdout.startswith("proposal 1 adopted; in use: release 2")
    shown = recspect("show", "--format", "json", cwd=tmp_path)
    assert json.loads(shown.stdout)["provenance"]["by"] == "person"
    judged = json.loads(recspect("decide", "m.toml", "--experiments", "later.csv", "--format", "json", cwd=tmp_path).stdout)
    assert len(judged["experiments"]) == 25
    assert {"experiment", "ship", "probability", "certainty", "reasons"} <= judged["experiments"][0].keys()
    watched = recspect("watch", "m.toml", "--experiments", "later.csv", "--format", "json", cwd=tmp_path)
    assert watched.returncode == 1
    assert json.loads(watched.stdout)["alarms"]


@pytest.mark.parametrize(("arguments", "said"), [
    (("show",), "no metric is in use"), (("decide",), "takes one of"), (("decide", "--adopt", 1, "--reject", 1), "takes one of"), (("decide", "--adopt", 1), "there is no proposal 1"),
    (("fit", "no.toml", "--experiments", "no.parquet"), "no metric file at no.toml"), (("fit", "m.toml", "--experiments", "no.parquet"), "no.parquet"),
    (("fit", "m.toml", "--experiments", "m.toml"), "m.toml"), (("decide", "--experiments", "no.parquet"), "needs the metric file")])
def test_mistakes_are_told_without_a_traceback(tmp_path, arguments, said):
    (tmp_path / "m.toml").write_text(DECLARED)
    done = recspect(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
