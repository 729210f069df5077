"""Write docs/spec.md (every field of a spec) and docs/checks.md (every check of the conformance kit) from the code.

python docs/generate_reference.py            write the pages
python docs/generate_reference.py --check    only say which are not current (exit code 1)
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator

from generate_hooks import ROOT, fields_table, table

import diffcore as dc
from diffcore.declare.hookspecs import KINDS
from diffcore.declare.kinds import CORE
from diffcore.run.spec import EvaluationPlan, Sampling, Spec
from diffcore.specs.registry import Registry
from diffcore.testing.base import RULES

FOLDER = ROOT / "docs"
SECTIONS = {
    "sampling": (Sampling, "What `diffcore sample` and the report make when nothing else is asked."),
    "evaluation": (EvaluationPlan, "One row of the table for the main solver, and one per solver and budget named here."),
    "trainer": (dc.Trainer, "`type: standard`, or leave the whole section out. Other trainers add fields of their own."),
    "solver": (dc.Solver, "What every solver has; `diffcore show ID` lists the rest."),
}
"""Section of a spec -> the class of its fields."""
PREDICTIONS = {
    "x0": ("x_0", "the clean data"),
    "eps": ("eps", "the noise"),
    "score": ("-eps / sigma", "grad log p_t(x_t)"),
    "v": ("(alpha eps - sigma x_0) / sqrt(alpha^2 + sigma^2)", "Salimans and Ho 2022, for any alpha and sigma"),
    "velocity": ("alpha' x_0 + sigma' eps", "dx/dt of the probability-flow ODE"),
    "edm": ("(sigma x_0 - alpha sd^2 eps) / (sd sqrt(alpha^2 sd^2 + sigma^2))", "Karras et al. 2022, with sd = `sigma_data`"),
}
"""What a network may predict under an affine process: name -> (formula, meaning)."""


SPEC = """# The fields of a spec

Generated from the code by `python docs/generate_reference.py`. How one is written and run: [assemble a spec](assemble-a-spec.md).

A spec is one map. A component is a map with `type`, its id, beside its fields: `{type: heun, steps: 20}`; where two
distributions have one id, write `distribution/id`. `diffcore list` names what is installed, `diffcore show ID` its fields.
Unknown keys, doubled keys and values of another type are refused. `diffcore explain SPEC --origin` says where each value
came from.
"""
BESIDE = """Beside these a file may begin with `extends: OTHER.yaml`: maps merge, lists replace, and another `type` replaces the
component. `--set key.path=value` on the command line comes last.
"""
CHECKS = """# The checks of the conformance kit

Generated from the code by `python docs/generate_reference.py`.

`diffcore conform ID` and the test file of a plugin run these for every component, from its declaration alone. A check that
does not concern a component (the order of a solver that declares none) is left out or skipped with its reason. A component
may name a check that cannot hold in `expected_failures`, with the reason; it is then a failure if the check passes.

Orders and moments prove that a method converges, not that it is the one of its paper. A stochastic solver states the order of its
moments in `weak_order`, and any solver can be held to a published program, step by step, with the same start, model and noise:

    from diffcore.testing import equals_published

    equals_published(MySolver(), program, process)  # program(run): run.x, run.times, run.denoise, run.coeffs, run.noise

where `program` yields the state after every step; the first step that is more than 1e-6 off is named.
"""


def pages(registry: Registry) -> dict[str, str]:
    """File name -> text."""
    made = {"spec.md": _spec(registry), "checks.md": _checks()}
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def _spec(registry: Registry) -> Iterator[str]:
    yield SPEC
    yield from fields_table(registry, Spec)
    yield BESIDE
    for name, (cls, words) in SECTIONS.items():
        yield f"## `{name}`\n\n{words}\n"
        yield from fields_table(registry, cls)
    yield "## `prediction`\n\nUnder an affine process, with x_t = alpha x_0 + sigma eps. Other processes may read other names.\n"
    yield from table(("name", "the network predicts", "which is"), [(f"`{n}`", f"`{f}`", w) for n, (f, w) in PREDICTIONS.items()])
    yield "## Components\n\n| section | kind | what there is |\n|---|---|---|"
    for section, kind in _kinds():
        hook = next(hook for hook, kinds in KINDS.items() if kind in kinds)
        yield f"| `{section}` | {kind} | [`{hook}`](hooks/{hook}.md) |"
    yield "\nComponents of further kinds stand in fields of these, wherever the type of a field is the base class of a kind:"
    yield "[`diffcore_components`](hooks/diffcore_components.md), `diffcore list kinds`."


def _kinds() -> list[tuple[str, str]]:
    """Where in a spec a component of each kind stands."""
    own = {"metrics": "metric", "solver.grid": "grid", "loss.weighting": "weighting", "loss.time_law": "time_law"}
    top = [name for name in inspect.signature(Spec).parameters if name in CORE]
    return [*((name, name) for name in top), *own.items(), ("loss.coupling", "coupling"), ("process.noise", "noise")]


def _checks() -> Iterator[str]:
    importlib.import_module("diffcore.testing.checks")  # which registers them
    yield CHECKS
    for kind in ("", *CORE):
        rows = [(f"`{rule.name}`", " ".join((rule.run.__doc__ or "").split())) for rule in RULES if rule.kind == kind]
        if rows:
            yield f"## {f'Kind `{kind}`' if kind else 'Every kind'}\n"
            yield from table(("check", "what must hold"), rows)


def stale(wanted: dict[str, str]) -> list[str]:
    """The pages whose file differs or is missing."""
    files = {name: FOLDER / name for name in wanted}
    return sorted(name for name, file in files.items() if not file.exists() or file.read_text() != wanted[name])


def main(arguments: list[str]) -> int:
    """Write or check the pages; the exit code."""
    wanted = pages(Registry.load())
    changed = stale(wanted)
    if "--check" in arguments:
        print("\n".join(f"docs/{name} is not current" for name in changed) or "docs/spec.md and docs/checks.md are current")
        return 1 if changed else 0
    for name in changed:
        (FOLDER / name).write_text(wanted[name])
    print(f"{len(changed)} of {len(wanted)} pages written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
