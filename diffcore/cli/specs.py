"""`diffcore check`, `explain` and `schema`: what is wrong with a spec, what it means, and what may stand in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffcore.cli.catalogue import kind_of
from diffcore.cli.completing import complete_kinds
from diffcore.cli.group import command, json_option, set_option, spec_argument
from diffcore.cli.output import number, print_json, print_table
from diffcore.declare.errors import CheckpointError, DiffcoreError, SpecError
from diffcore.specs.registry import Registry

if TYPE_CHECKING:
    from diffcore.run.pipeline import Pipeline


@command("check")
@spec_argument
@set_option
@json_option
def check(spec: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Name every fault of SPEC at once, with file, line and column; then whether its parts fit together."""
    registry = Registry.load()
    if not as_json:
        for note in _notes(assemble_checked(registry, spec, overrides)):
            click.echo(f"note: {note}", err=True)
        click.echo(f"{spec} is sound")
        return
    try:
        pipeline = assemble_checked(registry, spec, overrides)
    except DiffcoreError as error:
        unseen = getattr(error, "unseen", "")
        print_json({"ok": False, "faults": _faults(spec, error), "notes": [unseen] if unseen else []})
        click.get_current_context().exit(error.exit_code)
    print_json({"ok": True, "faults": [], "notes": _notes(pipeline)})


def _notes(pipeline: Pipeline) -> list[str]:
    """What is worth saying of a sound spec, and whether its run has a place here."""
    from diffcore.run.marks import refuse_foreign_run
    from diffcore.run.record import place

    try:
        refuse_foreign_run(place(None, Path("runs") / pipeline.spec.name, folder=True))
    except CheckpointError as error:
        return [*pipeline.notes, f"name: {error}"]
    except SpecError as error:
        return [*pipeline.notes, f"name: {str(error).removeprefix('--out ')}, or give run and train another --out"]
    return list(pipeline.notes)


def assemble_checked(registry: Registry, spec: str, overrides: tuple[str, ...]) -> Pipeline:
    """The assembled pipeline; what can be found without torch is found before it is imported."""
    from diffcore.run.sections import refuse_unknown

    refuse_unknown(spec, registry, overrides)
    from diffcore.run.assemble import assemble

    return assemble(spec, registry=registry, overrides=overrides)


def _faults(spec: str, error: DiffcoreError) -> list[dict[str, Any]]:
    from diffcore.specs import SpecErrors

    if isinstance(error, SpecErrors):
        return error.as_dicts()
    return [{"file": spec, "line": None, "column": None, "path": "", "message": str(error)}]


@command("explain")
@spec_argument
@set_option
@click.option("--targets", is_flag=True, help="Also how every prediction is read from every other, and where that is singular.")
@click.option("--origin", is_flag=True, help="Also every value, and where it was written.")
@json_option
def explain(spec: str, overrides: tuple[str, ...], origin: bool, targets: bool, as_json: bool) -> None:
    """What SPEC assembles to: its parts, its final time grid, and its cost in network calls."""
    registry = Registry.load()
    pipeline = assemble_checked(registry, spec, overrides)
    for note in pipeline.notes:
        click.echo(f"note: {note}", err=True)
    from diffcore.run.explaining import explain as explain_pipeline
    from diffcore.run.laboratory import targets_table

    told = explain_pipeline(pipeline)
    values = list(_origins(registry, pipeline.spec, spec, overrides)) if origin else None
    table = targets_table(pipeline.process, pipeline.spec.sigma_data) if targets else None
    if as_json:
        print_json({**told, **({} if values is None else {"origin": values}), **({} if table is None else {"targets": table})})
        return
    _print(told)
    if table is not None:
        click.echo(f"\n{table}")
    if values is not None:
        click.echo()
        print_table(("value", "is", "from"), [(v["path"], json.dumps(v["value"]), v["origin"]) for v in values])


UNCALIBRATED = " (to be calibrated to the trained model: grid and steps are those of its stand-in)"


def _print(told: Mapping[str, Any]) -> None:
    plural = "" if told["calls"] == 1 else "s"
    rows = {
        "data": f"{told['data']}, samples of {told['event']}",
        "process": f"{told['process']} (provides {', '.join(told['provides'])})",
        "network": f"{told['network']}, {told['parameters']:,} parameters",
        "prediction": told["prediction"],
        "loss": told["loss"],
        "guidance": ", ".join(told["guidance"]) or "none",
        "solver": f"{told['solver']}, {told['steps']} steps{'' if told['calibrated'] else UNCALIBRATED}",
        "cost": f"{told['calls']} network call{plural}, {told['nfe']:g} evaluations per sample",
    }
    for name, text in rows.items():
        click.echo(f"{name:<12}{text}")
    head = list(dict.fromkeys(name for row in told["grid"] for name in row))
    click.echo()
    print_table(head, [[number(row.get(name, "")) for name in head] for row in told["grid"]])


def _origins(registry: Registry, loaded: Any, spec: str, overrides: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    from diffcore.specs import origins, unstructure

    written = origins(spec, overrides)
    for path, value in _leaves(unstructure(registry, loaded), ""):
        yield {"path": path, "value": value, "origin": written.get(path, "default")}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    children = [(f"{path}.{name}" if path else str(name), child) for name, child in items]
    if not children:
        yield path, value
    for name, child in children:
        yield from _leaves(child, name)


@command("schema")
@click.option("--kind", metavar="KIND", shell_complete=complete_kinds, help="Only the components of one kind.")
def schema(kind: str | None) -> None:
    """The JSON Schema (draft-07) of a spec with all installed components: diffcore schema > spec.schema.json."""
    from diffcore.run.spec import Spec
    from diffcore.specs import schema as schema_of

    registry = Registry.load()
    print_json(schema_of(registry, kind_of(registry, kind) if kind else Spec))
