"""`diffcore run`, `train`, `sample`, `evaluate` and `compare`: the command line of `diffcore.run.runs`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from diffcore.cli.group import MOST_SAMPLES, RESUME, Count, command, json_option, run_argument, set_option, spec_argument
from diffcore.cli.output import number, print_json, print_table
from diffcore.cli.progress import Progress
from diffcore.declare.errors import counted
from diffcore.run.interrupt import Interrupt
from diffcore.run.report.escaping import block, word
from diffcore.specs.registry import Registry

out_option = click.option("--out", metavar="FOLDER", help="Run directory (default: runs/NAME).")
device_option = click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... (default: cuda where there is one).")


@contextmanager
def work() -> Generator[Progress | None]:
    """The progress display of this process (only the first of several shows one), stopped by Ctrl-C after a whole step."""
    from diffcore.learning import distributed

    with Interrupt() as interrupt:
        progress = Progress(between=interrupt.check) if _is_first() else None
        try:
            yield progress
        finally:
            if progress:
                progress.close()
            distributed.stop()


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(line: str) -> None:
    if _is_first():
        click.echo(block(line))


def _say_json(told: Mapping[str, Any]) -> None:
    if _is_first():
        print_json(told)


def _read_before_torch(spec: str, overrides: Sequence[str]) -> Registry:
    """The installed components, where the spec has no fault that is found without importing torch."""
    from diffcore.run.sections import refuse_unknown

    registry = Registry.load()
    refuse_unknown(spec, registry, overrides)
    return registry


def _remember(name: str, spec: str, overrides: Sequence[str], out: str | None, device: str | None) -> None:
    """Keep the command line that resumes this run, for whoever presses Ctrl-C."""
    words = ["diffcore", name, spec, *(w for o in overrides for w in ("--set", o))]
    words += ["--out", out] if out else []
    words += ["--device", device] if device else []
    click.get_current_context().meta[RESUME] = shlex.join(words)


@command("run")
@spec_argument
@set_option
@out_option
@device_option
@json_option
def run(spec: str, overrides: tuple[str, ...], out: str | None, device: str | None, as_json: bool) -> None:
    """Train, sample, measure and report. A run that was stopped is resumed by the same command."""
    registry = _read_before_torch(spec, overrides)
    from diffcore.run import runs

    _remember("run", spec, overrides, out, device)
    with work() as progress:
        folder = runs.run(spec, out, overrides=overrides, device=device, progress=progress, registry=registry)
    if as_json:
        _say_json({"run": folder, "report": folder / "report.html", "rows": runs.read_rows(folder)})
    elif _is_first():
        print_rows(runs.read_rows(folder))
        click.echo(f"\nreport: {folder / 'report.html'}\nmore samples: diffcore sample {word(folder)}")


@command("train")
@spec_argument
@set_option
@out_option
@device_option
@json_option
def train(spec: str, overrides: tuple[str, ...], out: str | None, device: str | None, as_json: bool) -> None:
    """Train only. A run that was stopped is resumed by the same command."""
    registry = _read_before_torch(spec, overrides)
    from diffcore.run import runs

    _remember("train", spec, overrides, out, device)
    with work() as progress:
        folder = runs.train(spec, out, overrides=overrides, device=device, progress=progress, registry=registry)
    if as_json:
        return _say_json({"run": folder, "weights": folder / "weights.safetensors"})
    return _say(f"trained: {folder}\nsamples: diffcore sample {word(folder)}")


def _classes(ctx: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str] | None:
    chosen: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not (name and value):
            raise click.BadParameter(f"'{pair}' is not NAME=CLASS with the number or the name of a class (example: label=3)")
        chosen[name] = value
    return chosen or None


@command("sample")
@run_argument
@click.option("-n", "n", type=Count(1, MOST_SAMPLES), help="Number of samples (default: the spec's).")
@click.option("--seed", type=Count(0), default=0, show_default=True, help="Sample i depends on seed and i.")
@click.option("--cond", multiple=True, metavar="NAME=CLASS", callback=_classes, help="Class, by number or name (default: all).")
@set_option
@click.option(
    "--out",
    metavar="FILE",
    help="A .safetensors, .npz, .png, .gif, .txt or .csv file, or a folder with a file for each (default: in RUN/samples).",
)
@device_option
@json_option
def sample(
    run: str,
    n: int | None,
    seed: int,
    cond: dict[str, str] | None,
    overrides: tuple[str, ...],
    out: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Sample from RUN: a run directory, a weights file or a checkpoint. Nothing else has to be remembered.

    Of a run whose training has not ended, the averaged weights of its newest checkpoint are taken.
    """
    from diffcore.run import runs

    with work() as progress:
        made = runs.sample_run(run, n=n, seed=seed, cond=cond, overrides=overrides, out=out, device=device, progress=progress)
    if as_json:
        told = {"file": made.path, "n": made.n, "calls": made.calls, "nfe": made.nfe, "seconds": made.seconds, "note": made.note}
        return _say_json(told)
    cost = f"{counted(made.calls, 'network call')}, {made.seconds:.3g} s"
    said = f"{counted(made.n, 'sample')} of shape {made.shapes}, {cost}: {made.path}"
    return _say(f"{said} ({made.note})" if made.note else said)


@command("evaluate")
@run_argument
@set_option
@device_option
@json_option
def evaluate(run: str, overrides: tuple[str, ...], device: str | None, as_json: bool) -> None:
    """Measure RUN again: its table and its report are rewritten."""
    from diffcore.run import runs

    with work() as progress:
        rows = runs.evaluate_run(run, overrides=overrides, device=device, progress=progress)
    if _is_first():
        print_json(rows) if as_json else print_rows(rows)


@command("calibrate")
@run_argument
@set_option
@device_option
@json_option
def calibrate(run: str, overrides: tuple[str, ...], device: str | None, as_json: bool) -> None:
    """Find out what the solvers of RUN must know about its model, and save it with the weights.

    Only some solvers and grids need this: `diffcore show` says which. Sampling calibrates what is not calibrated yet, each time.
    """
    from diffcore.run import runs

    with work():
        told = runs.calibrate_run(run, overrides=overrides, device=device)
    if as_json:
        return print_json({name: list(lines) for name, lines in told})
    for name, lines in told:
        click.echo("\n  ".join([name, *lines]))
    return None if told else click.echo(f"no solver of {run} needs a calibration; name one with --set solver.type=...")


@command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", metavar="FILE", help="Also write one HTML report of all.")
@json_option
def compare(runs: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Put the tables of several RUNS side by side."""
    from diffcore.run.runs import compare as compare_runs

    rows = compare_runs(runs, out)
    print_json(rows) if as_json else print_rows(rows)
    if out is not None and not as_json:
        click.echo(f"\nreport: {out}")


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """An evaluation table: one line per solver and budget, one column per metric."""
    if not rows:
        click.echo("nothing was measured")
        return
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    head = [*(["run"] if "run" in rows[0] else []), "solver", "steps", "calls", "evaluations", "seconds", "n"]
    print_table([*head, *metrics], [[*_cost(row), *(_measured(row["metrics"].get(m)) for m in metrics)] for row in rows])


def _cost(row: Mapping[str, Any]) -> list[str]:
    label = row["label"] + (f", ran {row['ran']}" if row.get("ran") else "")
    cells = [label, row["steps"], row["calls"], f"{row['nfe']:g}", f"{row['seconds']:.3g}", row["n"]]
    return [str(c) for c in ([row["run"], *cells] if "run" in row else cells)]


def _measured(value: Mapping[str, Any] | None) -> str:
    """`value +- spread (floor f)`."""
    if value is None:
        return "-"
    text = number(float(f"{value['value']:.4g}"))
    text += f" +- {value['spread']:.2g}" if value.get("spread") is not None else ""
    return text + (f" (floor {value['floor']:.3g})" if value.get("floor") is not None else "")
