"""Draws docs/three-views.png: one exact field of a Gaussian mixture, walked back in the three views from the same noise."""

from __future__ import annotations

from pathlib import Path

import torch

import diffcore as dc
from diffcore.run.report.pictures import png
from diffcore.testing.oracles import Mixture

VIEWS = (
    ("flow: probability-flow ODE", "heun", 60),
    ("score: reverse SDE", "euler-maruyama", 400),
    ("variational: chain of posteriors", "ancestral", 100),
)


def main() -> None:
    """Sample, draw, write."""
    from matplotlib.figure import Figure

    registry = dc.Registry.load()
    process = registry.make("process", "vp")
    data = Mixture([0.35, 0.65], [[-1.5], [1.2]], [0.25, 0.4])
    field = data.field(process)
    start = process.prior((1,), dc.Draw(0, range(4000))).double()
    figure = Figure(figsize=(11.5, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True, width_ratios=[3, 3, 3, 1.6])
    y = torch.linspace(-3.2, 3.2, 400, dtype=torch.float64)[:, None]
    times = torch.linspace(1.0, 1e-3, 200, dtype=torch.float64)
    density = torch.stack([data.log_prob(y, process.coeffs(t)).exp() for t in times], 1)
    for axis, (title, name, steps) in zip(axes, VIEWS, strict=False):
        grid = torch.linspace(1.0, 1e-3, steps + 1, dtype=torch.float64)
        walk = dc.sample(field, registry.make("solver", name, steps=steps), start, grid=grid, seed=1, keep_frames=True).frames
        paths = torch.stack([f.x[:, 0] for f in walk])
        axis.imshow(density.sqrt(), extent=(1, 0, -3.2, 3.2), origin="lower", aspect="auto", cmap="Blues", vmax=0.9)
        axis.plot(grid, paths[:, :20], color="#c2410c", linewidth=0.7, alpha=0.85)
        axis.set_xlim(1, 0)
        axis.set_ylim(-3.2, 3.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("time: noise to data")
        axes[3].hist(paths[-1], bins=60, density=True, histtype="step", orientation="horizontal", linewidth=1)
    axes[3].plot(density[:, -1], y[:, 0], color="black", linewidth=1)
    axes[3].set_title("4,000 samples,\nexact density", fontsize=9)
    axes[3].set_xticks([])
    Path(__file__).with_name("three-views.png").write_bytes(png(figure))


if __name__ == "__main__":
    main()
