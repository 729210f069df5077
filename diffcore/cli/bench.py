"""`diffcore bench` and `diffcore trajectory`: how good solvers are on a trained model, and where along a run they err."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import click

from diffcore.cli.completing import complete_solvers
from diffcore.cli.group import MOST_SAMPLES, Count, command, json_option, run_argument, set_option
from diffcore.cli.output import number, print_json, print_table
from diffcore.cli.runs import device_option, work
from diffcore.specs import structure
from diffcore.specs.faults import Faults, Source
from diffcore.specs.reader import read
from diffcore.specs.registry import Registry
from diffcore.specs.tree import Node, shorten

MOST_CALLS = 1_000_000


def _solvers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[Node]:
    """Ids or specs of solvers, separated by commas; `id@grid` is a solver on a grid. Read as a spec is."""
    faults = Faults()
    listed = read(Source(f"{parameter.opts[0]} {shorten(text or '')}", f"[{text or ''}]", inline=True), faults)
    faults.check()
    return [_on_grid(node) for node in listed.children.values()]


def _on_grid(node: Node) -> Node:
    if not isinstance(node.value, str):
        return node
    id, at, grid = node.value.partition("@")
    named = {"type": attrs.evolve(node, value=id)}
    return Node.group({**named, "grid": Node.group({"type": attrs.evolve(node, value=grid)})} if at else named, node.mark)


def _budgets(ctx: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,7}", word) and 0 < int(word) <= MOST_CALLS for word in words):
        raise click.BadParameter(f"'{shorten(text)}' is no list of network calls, of 1 to {MOST_CALLS} (example: 5,10,20)")
    return sorted({int(word) for word in words})


n_option = click.option("-n", "n", type=Count(2, MOST_SAMPLES), default=64, show_default=True, help="Number of samples.")
seed_option = click.option("--seed", type=Count(0), default=0, show_default=True, help="Seed of their noise.")
folder_option = click.option("--out", metavar="FOLDER", help="Where table and pictures go (default: in the run).")


@command("bench")
@run_argument
@click.option(
    "--solvers",
    callback=_solvers,
    shell_complete=complete_solvers,
    metavar="A,B@GRID,...",
    help="Solvers (default: all that fit and draw no noise).",
)
@click.option("--nfe", callback=_budgets, default="5,10,20", show_default=True, help="Budgets: network calls per sample.")
@n_option
@seed_option
@set_option
@folder_option
@device_option
@json_option
def bench(
    run: str,
    solvers: list[Node],
    nfe: list[int],
    n: int,
    seed: int,
    overrides: tuple[str, ...],
    out: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Compare solvers on the model of RUN: the distance of their samples to a fine solution from the same noise.

    RUN is a run directory, a weights file, or the spec of a run. A solver is an id, id@grid, or {type: ddim, grid: {...}}.
    """
    registry = Registry.load()
    chosen = [structure(registry, "solver", node) for node in solvers]
    from diffcore.run import benching
    from diffcore.run.marks import refuse_foreign_table
    from diffcore.run.opening import model_of
    from diffcore.run.record import place
    from diffcore.run.report.canvas import require_packages

    require_packages()
    with work() as progress:
        pipeline, folder = model_of(run, registry, overrides, device)
        target = place(out, folder / "bench", folder=True)
        refuse_foreign_table(target / "bench.json")
        table = benching.bench(pipeline, chosen, nfe, n=n, seed=seed, progress=None if as_json else progress)
        picture = benching.write_bench(table, target)
    if as_json:
        return print_json(table)
    return _print(table, picture)


def _print(table: dict[str, Any], picture: Path) -> None:
    budgets = [str(budget) for budget in table["budgets"]]
    shown = [row for row in table["rows"] if row["cells"]]
    best = {b: min((r["cells"][b]["error"] for r in shown if b in r["cells"]), default=0.0) for b in budgets}

    def cell(row: dict[str, Any], budget: str) -> str:
        found = row["cells"].get(budget)
        return "-" if found is None else number(found["error"]) + ("*" if found["error"] == best[budget] else "")

    if shown:
        print_table(["solver", *(f"{b} calls" for b in budgets)], [[r["solver"], *(cell(r, b) for b in budgets)] for r in shown])
    for row in table["rows"]:
        if "refused" in row:
            click.echo(f"{row['solver']}: {row['refused']}")
    reference = table["reference"]
    click.echo(
        f"\nrms error per dimension, mean of {table['n']} samples; * is the best; reference: {reference['solver']} in "
        f"{reference['steps']} steps, {number(reference['error'])} from half as many\n{picture}"
    )


@command("trajectory")
@run_argument
@click.option(
    "--solver",
    "solver",
    callback=_solvers,
    shell_complete=complete_solvers,
    metavar="ID",
    help="A solver (default: that of the run).",
)
@n_option
@seed_option
@set_option
@click.option("--out", metavar="OUT", help="A folder, or a .png or .gif file of the states (default: in the run).")
@device_option
@json_option
def trajectory(
    run: str,
    solver: list[Node],
    n: int,
    seed: int,
    overrides: tuple[str, ...],
    out: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Draw the states of RUN on their way, and the error that every step of the solver adds."""
    if len(solver) > 1:
        raise click.BadParameter("one solver at a time has a trajectory", param_hint="--solver")
    registry = Registry.load()
    given = [structure(registry, "solver", node) for node in solver]
    from diffcore.run import benching
    from diffcore.run.opening import model_of
    from diffcore.run.report.canvas import require_packages

    require_packages()
    with work():
        pipeline, folder = model_of(run, registry, overrides, device)
        target = benching.way_place(out, folder / "trajectory")
        chosen = given[0] if given else pipeline.spec.solver
        rows, frames = benching.steps_of(pipeline, chosen, n=n, seed=seed)
        files = benching.write_steps(rows, frames, target)
    if as_json:
        return print_json(rows)
    print_table(list(rows[0]), [[number(value) for value in row.values()] for row in rows])
    return click.echo("\nrms error per dimension: added by the step, and so far\n" + "\n".join(map(str, files)))
