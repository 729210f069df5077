"""What a spec comes to: the assembled parts, the final time grid, the cost of a sample."""

from __future__ import annotations

from typing import Any

from diffcore.numerics.calibration import calibrate_on, stand_in
from diffcore.numerics.fields import count_parameters
from diffcore.run.measuring import cost
from diffcore.run.pipeline import Pipeline


def explain(pipeline: Pipeline) -> dict[str, Any]:
    """Ids of all parts, the grid with t, alpha, sigma and lam, and calls and evaluations per sample."""
    wanted = pipeline.spec.solver
    known = not calibrate_on(wanted) or pipeline.calibration_key(wanted) in pipeline.calibrations
    solver = pipeline.field().steps(pipeline.ready(wanted) if known else stand_in(wanted))
    nodes = solver.nodes(pipeline.process)
    at = pipeline.process.coeffs(nodes)
    rows = [{"step": i, "t": float(t)} for i, t in enumerate(nodes)]
    if hasattr(at, "alpha"):
        for row, a, s, lam in zip(rows, at.alpha.tolist(), at.sigma.tolist(), at.lam.tolist(), strict=True):
            row.update(alpha=a, sigma=s, lam=lam)
    calls, nfe = cost(pipeline, wanted)
    return {
        "data": pipeline.registry.id_of(type(pipeline.spec.data)),
        "event": str(pipeline.source.event),
        "process": pipeline.registry.id_of(type(pipeline.spec.process)),
        "provides": sorted(pipeline.process.provides),
        "network": pipeline.registry.id_of(type(pipeline.spec.network)),
        "parameters": count_parameters(pipeline.net),
        "prediction": pipeline.spec.prediction,
        "loss": pipeline.registry.id_of(type(pipeline.spec.loss)),
        "guidance": [pipeline.registry.id_of(type(g)) for g in pipeline.spec.guidance],
        "solver": pipeline.registry.id_of(type(pipeline.spec.solver)),
        "calibrated": known,
        "steps": len(nodes) - 1,
        "calls": calls,
        "nfe": nfe,
        "grid": rows,
    }
