"""The training of a pipeline: taken up where a checkpoint left it, kept on the way, and saved when a signal stops it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from diffcore.learning import distributed
from diffcore.learning.loader import Loader
from diffcore.learning.trainer import Job, Player, Report
from diffcore.numerics.draw import Draw
from diffcore.numerics.meter import Meter
from diffcore.numerics.tree import tree_map
from diffcore.run import resuming
from diffcore.run.interrupt import Interrupt

if TYPE_CHECKING:
    from diffcore.run.pipeline import Pipeline

Log = Callable[[Report], None] | None


class Progress(Protocol):
    """What shows long work; the command line's bar is one."""

    def start(self, total: int, label: str, done: int = 0) -> None: ...  # noqa: D102
    def update(self, step: int, **numbers: float) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


def train(pipeline: Pipeline, folder: Path | None, progress: Progress | None, log: Log, say: Callable[[str], None]) -> None:
    """Train to the spec's last step, with checkpoints in `folder`, then use the averaged weights (see `Pipeline.train`)."""
    job, trainer = _job(pipeline), pipeline.spec.trainer
    players = list(trainer.players(job.parts))
    if folder:
        pipeline.step = resuming.restore(folder, players, pipeline.parts, pipeline.codec, trainer.keep, say)
    else:
        pipeline.step = 0
    if pipeline.step > trainer.steps:
        say(f"the newest checkpoint is of step {pipeline.step}, past trainer.steps ({trainer.steps}): the training ends with it")
    for module in job.parts.values():
        module.train()
    if progress:
        progress.start(trainer.steps, f"training {pipeline.spec.name}", pipeline.step)
    try:
        _go_on(pipeline, job, players, folder, progress, log)
    finally:
        if progress:
            progress.close()
    _use_average(pipeline, players)
    pipeline.calibrations.clear()


def _job(pipeline: Pipeline) -> Job:
    """What the training program needs."""
    rank, world = distributed.world()
    spec = pipeline.spec
    loader = Loader(pipeline.source, spec.data.encode, spec.trainer.batch, spec.seed, rank, world)

    def batches(step: int) -> tuple[Any, Mapping[str, Tensor]]:
        x0, cond = loader(step)
        return tree_map(lambda leaf: leaf.to(pipeline.device), x0), {k: v.to(pipeline.device) for k, v in cond.items()}

    meter = Meter()

    def loss(x0: Any, draw: Draw, **cond: Any) -> Any:
        meter.at = None
        with meter:
            return spec.loss(pipeline.denoiser, x0, draw, **cond)

    def times() -> Any:
        return getattr(meter.at, "t", None)

    return Job(
        parts=pipeline.parts,
        loss=loss,
        batches=batches,
        seed=spec.seed,
        device=pipeline.device,
        times=times,
        after=lambda step: spec.loss.after_step(pipeline.denoiser, step),
        name=f"loss {type(spec.loss).__name__}",
    )


def _go_on(
    pipeline: Pipeline, job: Job, players: Sequence[Player], folder: Path | None, progress: Progress | None, log: Log
) -> None:
    trainer = pipeline.spec.trainer
    with Interrupt() as interrupt:
        try:
            for report in trainer.run(job, players, pipeline.step):
                pipeline.step = report.step
                last = report.step == trainer.steps
                if log and (last or report.step % trainer.log_every == 0):
                    log(report)
                if last or report.step % trainer.checkpoint_every == 0:
                    _keep(pipeline, players, folder)
                if progress:
                    progress.update(report.step, **report.numbers)
                interrupt.check()
        except KeyboardInterrupt:
            if not interrupt.forced and distributed.world()[1] == 1:
                _keep(pipeline, players, folder)
            raise


def _keep(pipeline: Pipeline, players: Sequence[Player], folder: Path | None) -> None:
    if folder:
        parts = {**pipeline.parts, **pipeline.codec}
        resuming.keep(folder, players, parts, pipeline.record(), pipeline.spec.trainer.keep)


@torch.no_grad()
def _use_average(pipeline: Pipeline, players: Sequence[Player]) -> None:
    for player in players:
        for key, average in player.ema.items():
            player.parameters[key].copy_(average)
    for module in pipeline.parts.values():
        module.eval()
