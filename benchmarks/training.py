"""A training step with EMA on a network that costs nothing, against a plain hand-written step without EMA.

    python benchmarks/training.py [--rounds FACTOR] [--write]

The network is `w x` with w the sum of 1, 16 or 64 scalar parameters (a small MLP has about 10 tensors, a U-Net hundreds), and the
batch is the same tensor in every step, so that only the work around the network counts. Ours is `Trainer.run` with the fields a newcomer gets: noise keyed by sample, the flow path, the
denoising loss, AdamW, warm-up, gradient clipping, the check for NaN, and EMA. The hand-written loop ("floor") is torch.rand,
torch.randn, the same path and loss, and torch.optim.AdamW with its defaults. Other libraries bring their path and loss into
that same loop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from common import arguments, interleave, publish, summary, table
from torch import Tensor, nn

import diffcore as dc
from diffcore.learning.trainer import Job

STEPS = 50
SHAPES = {(256, 2): 60, (256, 1, 28, 28): 16}
TENSORS = (1, 16, 64)
REGISTRY = dc.Registry.load()
Loss = Callable[[nn.Module, Tensor], Tensor]


class Scale(nn.Module):
    """x times the sum of some scalars."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.w = nn.ParameterList(torch.tensor(1 / tensors) for _ in range(tensors))
        self.parts = list(self.w)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (torch.stack(self.parts).sum() if len(self.parts) > 1 else self.parts[0]) * x


def diffcore(x0: Tensor, tensors: int) -> Callable[[], Any]:
    net, process = Scale(tensors), REGISTRY.make("process", "flow")
    model = dc.Denoiser(net, "velocity", process=process)
    loss = REGISTRY.make("loss", "denoising")
    trainer = REGISTRY.make("trainer", "standard", steps=STEPS, batch=len(x0))
    job = Job(parts={"network": net}, loss=lambda x0, draw: loss(model, x0, draw), batches=lambda step: (x0, {}))
    players = trainer.players(job.parts)
    return lambda: [report.numbers for report in trainer.run(job, players)]


def plain(loss: Loss) -> Callable[[Tensor, int], Callable[[], None]]:
    """The plain loop around a loss."""

    def make(x0: Tensor, tensors: int) -> Callable[[], None]:
        net = Scale(tensors)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)

        def run() -> None:
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss(net, x0).backward()
                optimizer.step()

        return run

    return make


def by_hand(net: nn.Module, x0: Tensor) -> Tensor:
    t, eps = torch.rand(len(x0)), torch.randn_like(x0)
    s = t.view(-1, *[1] * (x0.ndim - 1))
    xt = (1 - s) * x0 + s * eps
    return ((net(xt, t) - (eps - x0)) ** 2).mean()


def azula() -> Loss:
    from azula.denoise import SimpleDenoiser
    from azula.noise import RectifiedSchedule

    schedule = RectifiedSchedule()
    return lambda net, x0: SimpleDenoiser(net, schedule).loss(x0, torch.rand(len(x0)))


def flow_matching() -> Loss:
    from flow_matching.path import CondOTProbPath

    path = CondOTProbPath()

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        sample = path.sample(t=torch.rand(len(x0)), x_0=torch.randn_like(x0), x_1=x0)
        return ((net(sample.x_t, sample.t) - sample.dx_t) ** 2).mean()

    return loss


def torchcfm() -> Loss:
    from torchcfm import ConditionalFlowMatcher

    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x0), x0)
        return ((net(xt, t) - ut) ** 2).mean()

    return loss


def diffusers() -> Loss:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler()

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        eps = torch.randn_like(x0)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x0),))
        return nn.functional.mse_loss(net(scheduler.add_noise(x0, eps, t), t), eps)

    return loss


def contenders() -> tuple[dict[str, Callable[[Tensor, int], Callable[[], Any]]], list[str]]:
    """The loops by name, and the libraries that cannot be imported."""
    found, absent = {"floor": plain(by_hand), "diffcore": diffcore}, []
    for library in (diffusers, azula, flow_matching, torchcfm):
        try:
            found[library.__name__] = plain(library())
        except Exception as error:  # whatever breaks in another library is its own matter
            print(f"{library.__name__}: not installed ({type(error).__name__}: {error})", file=sys.stderr)
            absent.append(library.__name__)
    return found, absent


def cell(found: dict[str, float]) -> str:
    return f"{found['median_us']:.0f} us, {found['ratio']:.2f}x ({found['ratio_of_min']:.2f}x)"


def main() -> None:
    options = arguments(__doc__, 1.0)
    torch.set_num_threads(1)
    (makes, absent), results = contenders(), {}
    for (shape, rounds), tensors in product(SHAPES.items(), TENSORS):
        x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        seconds = interleave({name: make(x0, tensors) for name, make in makes.items()}, max(3, int(rounds * options.rounds)))
        results[f"{shape}, {tensors}"] = summary(seconds, "floor", STEPS)
    rows = [[name, *(cell(r[name]) if name in r else "not installed" for r in results.values())] for name in (*makes, *absent)]
    text = "Batch and number of parameter tensors; per step, median and ratio to the floor (in brackets the ratio of the minima):\n\n"
    publish("training", {"steps": STEPS, "results": results}, text + table(["", *results], rows), options.write)


if __name__ == "__main__":
    main()
