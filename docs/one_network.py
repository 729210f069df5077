"""Draws docs/one-network.png: one network, trained once on real digits, sampled in five views.

diffcore train examples/mnist.yaml --set process.type=vp --set prediction=v --set loss.time_law.type=uniform --out RUN
python docs/one_network.py RUN
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffcore_unified.views import one_run_five_views

import diffcore as dc
from diffcore.run.report.canvas import new_figure, png

TITLES = {
    "ddpm": "chain of posteriors (ancestral)",
    "score-sde": "reverse SDE (Euler-Maruyama)",
    "pf-ode": "probability-flow ODE (Heun)",
    "flow-matching": "on the straight path (Heun)",
    "trig-flow": "on the circle (Heun)",
}


def main(run: str) -> None:
    """Sample, print the distances of the deterministic views, draw, write."""
    pipeline = dc.Pipeline.load(run)
    for steps in (20, 40, 80, 160):
        views = one_run_five_views(pipeline, 10, steps=steps)
        gaps = {
            f"{a} / {b}": float(views.distance[i, j])
            for i, a in enumerate(views.names)
            for j, b in enumerate(views.names)
            if i < j
        }
        print(steps, ", ".join(f"{pair}: {gap:.2e}" for pair, gap in gaps.items()))
    figure, axes = new_figure(8.2, 3.7)
    rows = [torch.cat([(x.clamp(-1, 1) + 1) / 2 for x in views.samples[name][:, 0]], 1) for name in TITLES]
    axes.imshow(torch.cat(rows), cmap="gray", vmin=0, vmax=1)
    axes.set_yticks([28 * i + 14 for i in range(len(rows))], list(TITLES.values()), fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    Path(__file__).with_name("one-network.png").write_bytes(png(figure))


if __name__ == "__main__":
    main(sys.argv[1])
