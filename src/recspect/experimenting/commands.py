"""`recspect experiment`: what came of an experiment, and how large one has to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recspect.errors import UsageError
from recspect.exits import NEEDS_DATA, printable
from recspect.printing import Format, FormatOption, OutOption, show

experiment_app = typer.Typer(no_args_is_help=True, help="Did it do good: experiments and logged choices.")

TableArgument = Annotated[Path, typer.Argument(help="table: Parquet, CSV, Arrow; a row per user or per event, or per arm with --count")]
MetricOption = Annotated[list[str] | None, typer.Option("--metric", help="success metric: NAME, NAME=COLUMN, NAME=COLUMN/COLUMN; with ~COLUMN for the same before (repeatable)")]
GuardrailOption = Annotated[list[str] | None, typer.Option("--guardrail", help="a metric and the relative loss that is tolerated, such as latency:2% (repeatable)")]
LowerOption = Annotated[list[str] | None, typer.Option("--lower-is-better", help="name of a metric of which less is better (repeatable)")]
AlphaOption = Annotated[float, typer.Option(help="chance of a false success over all metrics and treatments")]
WinsoriseOption = Annotated[float, typer.Option(help="values of a user above this quantile are set to it")]


@experiment_app.command()
def analyse(table: TableArgument, arm: Annotated[str, typer.Option(help="column of the arm")], metric: MetricOption = None, guardrail: GuardrailOption = None,
            lower_is_better: LowerOption = None, user: Annotated[str, typer.Option(help="column of the user, where a user may have several rows")] = "",
            control: Annotated[str, typer.Option(help="the arm to compare with")] = "",
            share: Annotated[list[str] | None, typer.Option(help="ARM=SHARE that was meant, where arms were not meant to be equal (repeatable)")] = None,
            by: Annotated[list[str] | None, typer.Option("--by", help="column by whose values effects are looked at apart (repeatable)")] = None,
            look: Annotated[str, typer.Option(help="column of numbers by which users came in, such as the day")] = "",
            sequential: Annotated[bool, typer.Option("--sequential", help="intervals that hold however often one looks")] = False,
            planned_users: Annotated[int, typer.Option(help="users at which sequential intervals are tightest; choose before the first look")] = 10_000,
            least: Annotated[str, typer.Option(help="smallest relative gain that is worth it, such as 1%")] = "0",
            alpha: AlphaOption = 0.05, winsorise: WinsoriseOption = 1.0,
            count: Annotated[str, typer.Option(help="column of the number of users: the table is aggregated, a row per arm")] = "",
            output: FormatOption = Format.TEXT, out: OutOption = None) -> None:
    """Analyse an experiment: sample ratio first, then every metric, slices, and one decision. Exit 0 ship, 1 hold, 3 needs data."""
    from recspect.experimenting.analysing import analyse as run
    from recspect.experimenting.arms import read_aggregated, read_arms
    from recspect.experimenting.deciding import Action, Rule
    from recspect.experimenting.metric import read_metrics
    from recspect.files import require_writable

    if out is not None:
        require_writable(out)
    metrics = read_metrics(metric or (), guardrail or (), lower_is_better or ())
    rule = Rule(alpha=alpha, least=_share(least, "--least"), sequential=sequential, planned_users=planned_users)
    if count and (user or by or winsorise != 1):
        raise UsageError("an aggregated table (--count) has no users", hint="leave --user, --by and --winsorise away")
    if count:
        arms = read_aggregated(table, arm=arm, count=count, metrics=metrics, look=look)
    else:
        arms = read_arms(table, arm=arm, user=user, metrics=metrics, slices=by or (), look=look, winsorise=winsorise)
    found = run(arms, metrics, control=control, rule=rule, shares=_shares(share), title=f"experiment {table.name}", provenance={"data": str(table)})
    if output is Format.TEXT and out is None:
        for decision in found.decisions:
            typer.echo(printable("\n".join([f"{decision.action.upper()} {decision.arm}", *(f"  - {reason}" for reason in decision.reasons)])))
        typer.echo()
    show(found.report, output, out)
    ship = any(decision.action is Action.SHIP for decision in found.decisions)
    hold = all(decision.action is Action.HOLD for decision in found.decisions)
    broken = bool(found.report.find("effects.sample_ratio")) and found.report.find("effects.sample_ratio")[0].verdict.value == "FAIL"
    raise typer.Exit(0 if ship else 1 if hold or broken else NEEDS_DATA)


@experiment_app.command()
def plan(table: Annotated[Path | None, typer.Argument(help="users of an earlier period, a row per user or per event; else --mean and --deviation")] = None,
         metric: MetricOption = None, guardrail: GuardrailOption = None, user: Annotated[str, typer.Option(help="column of the user")] = "",
         mean: Annotated[float, typer.Option(help="of the metric per user, without a table")] = 0.0,
         deviation: Annotated[float, typer.Option(help="standard deviation between users; of a share p it is sqrt(p (1 - p))")] = 0.0,
         effect: Annotated[str, typer.Option(help="relative gain to find, such as 2%")] = "", users: Annotated[int, typer.Option(help="users there will be: say what they can find")] = 0,
         users_per_day: Annotated[float, typer.Option(help="new users per day, for the duration")] = 0.0,
         treatments: Annotated[int, typer.Option(help="arms beside control")] = 1, share: Annotated[float, typer.Option(help="share of users in each treatment; 0 for equal arms")] = 0.0,
         guardrails: Annotated[int, typer.Option(help="guardrails, where there is no table")] = 0, power: Annotated[float, typer.Option(help="chance to find what is there")] = 0.8,
         alpha: AlphaOption = 0.05, sequential: Annotated[bool, typer.Option("--sequential", help="it will be looked at all the time")] = False, winsorise: WinsoriseOption = 1.0) -> None:
    """Say how many users, or days, an experiment needs, or what so many users can find."""
    from recspect.experimenting.metric import read_metrics
    from recspect.experimenting.planning import Design
    from recspect.experimenting.plans import Baseline, baselines, plan_lines

    if bool(effect) == bool(users):
        raise UsageError("plan takes either the effect to find or the number of users", hint="--effect 2% says how many users; --users 100000 says what they find")
    if table is not None:
        metrics = read_metrics(metric or (), guardrail or (), ())
        known = baselines(table, user=user, metrics=metrics, winsorise=winsorise)
    elif deviation > 0 and mean:
        known = [Baseline(name="the metric", mean=mean, variance=deviation**2, margin=None, saved=0.0, users=0)]
    else:
        raise UsageError("plan needs a table of users, or --mean and --deviation", hint="recspect experiment plan users.parquet --metric clicks --effect 2%")
    guards = guardrails + sum(one.margin is not None for one in known)
    design = Design(alpha=alpha, power=power, successes=max(1, sum(one.margin is None for one in known)), guardrails=guards, treatments=treatments, share=share or None, sequential=sequential)
    for line in plan_lines(known, design, effect=_share(effect, "--effect") if effect else 0.0, users=users, users_per_day=users_per_day):
        typer.echo(printable(line))


@experiment_app.command(name="off-policy")
def off_policy(log: Annotated[Path, typer.Argument(help="log of choices: Parquet, CSV, Arrow; a row per choice")], reward: Annotated[str, typer.Option(help="column of what came of it, such as click")],
               propensity: Annotated[str, typer.Option(help="column of the probability with which it was shown")],
               target: Annotated[str, typer.Option(help="column of the probability with which the other policy would show it")] = "",
               policy: Annotated[str, typer.Option(help="table of item and probability (and position), or uniform")] = "",
               item: Annotated[str, typer.Option(help="column of what was shown")] = "", position: Annotated[str, typer.Option(help="column of the place")] = "",
               user: Annotated[str, typer.Option(help="column of the user")] = "", predicted: Annotated[str, typer.Option(help="column of a model's reward for what was shown")] = "",
               expected: Annotated[str, typer.Option(help="column of a model's mean reward under the other policy")] = "", output: FormatOption = Format.TEXT, out: OutOption = None) -> None:
    """Say what another policy would have earned, from a log with probabilities. Exit 0 surely more, 1 surely less, 3 the data cannot say."""
    from recspect.errors import Unavailable
    from recspect.experimenting.off_policy import evaluate, report
    from recspect.experimenting.policies import UNIFORM, LogColumns, PolicyTable, read_log
    from recspect.files import require_writable

    if out is not None:
        require_writable(out)
    columns = LogColumns(reward=reward, propensity=propensity, item=item, position=position, user=user, target=target, predicted=predicted, expected=expected)
    if policy and not item:
        raise UsageError("a policy over items needs the column of the item", hint="--item COLUMN")
    try:
        found = evaluate(read_log(log, columns, policy=policy if policy in ("", UNIFORM) else PolicyTable.read(Path(policy), columns)))
    except Unavailable as reason:
        raise UsageError(reason.reason, hint=reason.hint) from None
    show(report(found, title=f"{found.choices.name} on {log.name}", provenance={"data": str(log)}), output, out)
    best = found.estimates[-1].ratio
    raise typer.Exit(NEEDS_DATA if found.refused else 0 if best.surely_above(1.0) else 1 if best.surely_below(1.0) else NEEDS_DATA)


@experiment_app.command()
def interleaving(log: Annotated[Path, typer.Argument(help="a row per shown item: Parquet, CSV, Arrow")], session: Annotated[str, typer.Option(help="column of the session (or request)")],
                 team: Annotated[str, typer.Option(help="column of the ranking that picked the item; empty for neither")], credit: Annotated[str, typer.Option(help="column of clicks")],
                 user: Annotated[str, typer.Option(help="column of the user")] = "", candidate: Annotated[str, typer.Option(help="the team that is told about; else the second by name")] = "",
                 sequential: Annotated[bool, typer.Option("--sequential", help="an interval that holds however often one looks")] = False, output: FormatOption = Format.TEXT, out: OutOption = None) -> None:
    """Say which of two interleaved rankings people prefer. Exit 0 the candidate, 1 the other, 3 the data cannot say."""
    from recspect.errors import Unavailable
    from recspect.experimenting.interleaving import read_preference, report
    from recspect.files import require_writable

    if out is not None:
        require_writable(out)
    try:
        found = read_preference(log, session=session, team=team, credit=credit, user=user, candidate=candidate, sequential=sequential)
    except Unavailable as reason:
        raise UsageError(reason.reason, hint=reason.hint) from None
    show(report(found, provenance={"data": str(log)}), output, out)
    raise typer.Exit(0 if found.share.surely_above(0.0) else 1 if found.share.surely_below(0.0) else NEEDS_DATA)


@experiment_app.command()
def launches(table: Annotated[Path, typer.Argument(help="a row per past launch: Parquet, CSV, Arrow")],
             online: Annotated[str, typer.Option(help="column of the online effect, with its variance beside it as NAME_variance")],
             offline: Annotated[list[str] | None, typer.Option("--offline", help="column of the difference of an offline metric, NAME_variance beside it where its noise is known (repeatable)")] = None,
             lower_is_better: LowerOption = None, output: FormatOption = Format.TEXT, out: OutOption = None) -> None:
    """Say how well offline metrics foretold what past launches did online."""
    from recspect.comparing.launches import foresight, read_launches, report
    from recspect.files import require_writable

    if out is not None:
        require_writable(out)
    known = read_launches(table, online=online, offline=offline or (), lower=lower_is_better or ())
    made = report(foresight(known), known, title=f"launches of {table.name}", provenance={"data": str(table)})
    show(made, output, out)
    raise typer.Exit(1 if made.verdict.value == "FAIL" else 0)


def _share(text: str, option: str) -> float:
    """A share written as 2% or 0.02.

    Raises:
        UsageError: Neither, or negative.
    """
    from recspect.experimenting.metric import proportion

    value = proportion(text)
    if not 0 <= value < 10:
        raise UsageError(f"{option} is {text!r}", hint="a share such as 2% or 0.02")
    return value


def _shares(texts: list[str] | None) -> dict[str, float] | None:
    if not texts:
        return None
    pairs = [text.rpartition("=") for text in texts]
    for name, sign, value in pairs:
        if not name or not sign or not value:
            raise UsageError(f"--share takes ARM=SHARE, this is {name + sign + value!r}", hint="--share control=50% --share new=50%")
    return {name: _share(value, "--share") for name, _, value in pairs}


__all__ = ["experiment_app"]
