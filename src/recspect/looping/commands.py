"""`recspect loop`: go round, and say what was learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.errors import MissingExtraError


def mount(app: typer.Typer, console: Any) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
    """

    @app.command()
    def loop(rounds: Annotated[int, typer.Option(help="rounds: show, collect, learn, build")] = 5,
             out: Annotated[Path, typer.Option(help="folder of the loop; one that was stopped goes on")] = Path("runs/loop"),
             visits: Annotated[int, typer.Option(help="lists shown per round")] = 3000,
             users: Annotated[int, typer.Option(help="people in the simulated audience")] = 400,
             items: Annotated[int, typer.Option(help="items in the catalogue")] = 200,
             epsilon: Annotated[float, typer.Option(help="share of places that are filled at random, with known chance")] = 0.1,
             seed: Annotated[int, typer.Option(help="of audience, visits, clicks, lists and training")] = 0) -> None:
        """Run the whole circle on a simulated audience, and show that it learns."""
        try:
            from recspect.looping.rounds import LoopSettings, Round, go_round
        except ImportError as error:
            if (error.name or "").startswith("recspect"):
                raise  # a fault of ours, no missing extra
            raise MissingExtraError(error.name or "torch", extra="train", purpose="The loop") from None
        from recspect.worlds.audience import SimulatedAudience

        settings = LoopSettings(rounds=rounds, visits=visits, epsilon=epsilon, seed=seed, audience=SimulatedAudience(users=users, items=items, seed=seed))

        def tell(found: Round) -> None:
            console.print(line(found), markup=False, highlight=False, soft_wrap=True)

        console.print("expected clicks per list, 95% interval of the gain over popular items on the same visits", markup=False, highlight=False, soft_wrap=True)
        found = go_round(out, settings, say=tell)
        last = found[-1]
        print(json.dumps({"rounds": len(found), "reward_first": round(found[0].reward, 4), "reward_last": round(last.reward, 4),  # noqa: T201 - the answer
                          "popular_last": round(last.popular, 4), "best": round(last.best, 4), "gain": [round(value, 4) for value in last.gain],
                          "learns": last.reward > found[0].reward and last.gain[1] > 0, "folder": str(out)}))
        runs = sorted((out / "runs").glob("round-*"))
        if runs:
            console.print(f"Next: recspect diagnose {runs[-1]}", markup=False, highlight=False, soft_wrap=True)


def line(found: Any) -> str:
    """One round in words."""
    mean, low, high = found.gain
    after = f"; then trained: {found.trained}" if found.trained else ""
    if found.unlearnt:
        after = f"; nothing can be learned from {found.unlearnt}: goes on with popular items, or the model before"
    return (f"round {found.number}: {found.reward:.2f} (popular {found.popular:.2f}, best {found.best:.2f}); gain {mean:+.2f} ({low:+.2f} to {high:+.2f}); "
            f"{found.clicked:,} clicks on {found.shown:,} shown{after}")
