"""Training programs. The ordinary one (`Trainer`) has one player; a subclass names several, each with its parameters.

Everything a step needs is a function of (seed, step): the batch, the noise, the learning rate. So a run that was stopped at
any moment and resumed from a checkpoint is the run that never stopped, and the batch may be shared by any number of
processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, cast

import attrs
import torch
from torch import Tensor, nn

from diffcore.declare.component import Base, component, param
from diffcore.declare.errors import CheckpointError, IncompatibleError, NumericsError
from diffcore.declare.kinds import kind
from diffcore.learning import distributed
from diffcore.numerics.draw import Draw
from diffcore.numerics.tree import State

TRAINING = 0x7EA1
"""Salt of all training noise, which separates it from the noise of sampling under the same seed."""
BLOCK = 256
"""Rows of a global batch that share one noise stream (all of them where the batch is smaller)."""

Batches = Callable[[int], tuple[State, Mapping[str, Tensor]]]


@attrs.frozen
class Report:
    """What a training program says after a step: the number of finished steps, and numbers to log."""

    step: int
    numbers: Mapping[str, float]


@attrs.define
class Player:
    """One learner: its parameters by name, its optimiser, and the running average of its parameters (`ema`)."""

    name: str
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    every: int = 1
    ema: dict[str, Tensor] = attrs.field(factory=dict[str, Tensor])

    def __attrs_post_init__(self) -> None:
        """The rates the optimiser was made with are the player's peak rates."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers from which `restore` continues exactly."""
        tensors = {f"{self.name}/ema/{k}": v for k, v in self.ema.items()}
        numbers: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            tensors[f"{self.name}/parameter/{key}"] = parameter
            for entry, value in self.optimizer.state.get(parameter, {}).items():
                target = tensors if isinstance(value, Tensor) else numbers
                target[f"{self.name}/optimizer/{key}/{entry}"] = value
        return tensors, numbers

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint. Raises `CheckpointError` where it belongs to other parameters."""
        found: dict[str, dict[str, Any]] = {}
        for name, value in {**tensors, **numbers}.items():
            if name.startswith(f"{self.name}/optimizer/"):
                key, _, entry = name.removeprefix(f"{self.name}/optimizer/").rpartition("/")
                found.setdefault(key, {})[entry] = value
        for key, parameter in self.parameters.items():
            stored = tensors.get(f"{self.name}/parameter/{key}")
            if stored is None or stored.shape != parameter.shape:
                raise CheckpointError(f"the checkpoint has no parameter '{key}' of shape {tuple(parameter.shape)}")
            parameter.copy_(stored)
            if key in self.ema:
                self.ema[key].copy_(tensors[f"{self.name}/ema/{key}"])
            if key in found:
                state = {e: v.to(parameter.device) if isinstance(v, Tensor) else v for e, v in found[key].items()}
                self.optimizer.state[parameter] = state


@attrs.frozen(kw_only=True)
class Job:
    """What is to be trained: modules by role, the loss of a batch, the batches, and the seed.

    loss(x0, draw, **cond) returns one value per sample, or a mapping player -> values. `times` tells the times of the
    last evaluation, for error messages; `after` is called after every step.
    """

    parts: Mapping[str, nn.Module]
    loss: Callable[..., Tensor | Mapping[str, Tensor]]
    batches: Batches
    seed: int = 0
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))
    times: Callable[[], Any] = lambda: None
    after: Callable[[int], None] = lambda step: None
    name: str = "loss"


@component
@kind("trainer")
class Trainer(Base):
    """The ordinary training program: AdamW on all trainable parameters, warm-up, gradient clipping, EMA.

    EMA: m <- d m + (1 - d) w with d = min(ema, (1 + k) / (10 + k)) at update k, so that early weights are forgotten.
    Learning rate: lr * min(1, (k + 1) / warmup), then constant, or falling to `final_lr` by a cosine.
    """

    source: ClassVar[str] = "Loshchilov and Hutter 2019, arXiv 1711.05101 (AdamW)"

    steps: int = param(default=1000, ge=0, le=100_000_000, doc="training steps")
    batch: int = param(default=64, ge=1, le=10_000_000, doc="global batch size, shared by all processes")
    lr: float = param(default=1e-3, gt=0, le=100, doc="peak learning rate")
    final_lr: float | None = param(
        default=None, ge=0, le=100, doc="learning rate at the end of a cosine; constant where it is null"
    )
    warmup: int = param(default=100, ge=0, le=100_000_000, doc="steps of linear warm-up")
    betas: tuple[float, float] = param(default=(0.9, 0.99), ge=0, lt=1, doc="AdamW's averaging constants")
    weight_decay: float = param(default=0.0, ge=0, le=100, doc="AdamW's decoupled weight decay")
    clip: float | None = param(default=1.0, gt=0, le=1e9, doc="largest norm of the gradient")
    ema: float = param(default=0.999, ge=0, lt=1, doc="decay of the running average of the weights; 0 turns it off")
    precision: Literal["float32", "bfloat16"] = param(default="float32", doc="autocast of the network in training")
    checkpoint_every: int = param(default=500, ge=1, le=1_000_000_000, doc="steps between checkpoints")
    keep: int = param(default=2, ge=1, le=1_000_000, doc="checkpoints kept")
    log_every: int = param(default=20, ge=1, le=1_000_000_000, doc="steps between log lines")

    def players(self, parts: Mapping[str, nn.Module]) -> Sequence[Player]:
        """Who learns. Default: one player, named `model`, with every trainable parameter."""
        named = {f"{role}.{k}": p for role, m in parts.items() for k, p in m.named_parameters() if p.requires_grad}
        return [self.player("model", named)]

    def player(self, name: str, parameters: dict[str, nn.Parameter], *, every: int = 1, lr: float | None = None) -> Player:
        """A player with this program's optimiser (AdamW, fused where torch has it), who learns in every `every`-th step.

        lr: its peak learning rate where it is not that of the program; warm-up and decay are the program's.
        """
        device = next((p.device.type for p in parameters.values()), "cpu")
        fused = device in ("cpu", "cuda") and all(p.is_floating_point() for p in parameters.values())
        optimizer = torch.optim.AdamW(
            parameters.values() or [nn.Parameter(torch.zeros(0))],
            lr=self.lr if lr is None else lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=fused,
        )
        ema = {k: p.detach().clone() for k, p in parameters.items()} if self.ema > 0 else {}
        return Player(name, parameters, optimizer, every, ema)

    def learning_rate(self, step: int) -> float:
        """The learning rate of step k (counted from 0)."""
        rate = self.lr * min(1.0, (step + 1) / self.warmup) if self.warmup else self.lr
        if self.final_lr is None or step < self.warmup:
            return rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    def run(self, job: Job, players: Sequence[Player], first: int = 0) -> Iterator[Report]:
        """Train from step `first` to the end; yields after every step.

        Raises `NumericsError` on NaN or Inf in a loss or its gradient, before any parameter takes it in.
        """
        for player in players:
            if not player.parameters:
                raise IncompatibleError(f"player '{player.name}' has no trainable parameters: there is nothing to train")
        rank, world = distributed.world()
        per_rank = self.batch // world
        rows = range(rank * per_rank, (rank + 1) * per_rank)
        for step in range(first, self.steps):
            x0, cond = job.batches(step)
            draw = Draw(
                job.seed, rows, index=step, salt=TRAINING, block=min(BLOCK, self.batch), total=self.batch, device=job.device
            )
            with self._autocast(job.device.type):
                losses = job.loss(x0, draw, **cond)
            numbers = self._update(step, losses, players, job)
            job.after(step)
            yield Report(step + 1, numbers)

    def _autocast(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    def _update(self, step: int, losses: Tensor | Mapping[str, Tensor], players: Sequence[Player], job: Job) -> dict[str, float]:
        """Differentiate every due loss before any player moves, so that each gradient is that of the current weights."""
        named = losses if isinstance(losses, Mapping) else {players[0].name: losses}
        due = [player for player in players if step % player.every == 0]
        missing = [player.name for player in due if player.name not in named]
        if missing:
            raise IncompatibleError(
                f"{job.name} gives losses for {sorted(named)}, the training program has player '{missing[0]}'"
            )
        if not due:
            return {}
        values = [named[player.name].mean() for player in due]
        grads = [
            _gradients(value, player, keep=place < len(due) - 1)
            for place, (player, value) in enumerate(zip(due, values, strict=True))
        ]
        norms = [_norm(list(found.values())) for found in grads]
        numbers = torch.stack([v.detach().double() for v in (*values, *norms)]).tolist()  # the one wait for the device
        for place, player in enumerate(due):
            self._check(step, numbers[place], numbers[len(due) + place], named[player.name], player, job)
        for player, found, norm in zip(due, grads, norms, strict=True):
            self._learn(step, player, found, norm)
        labels = ["loss" if len(players) == 1 else f"loss/{player.name}" for player in due]
        return dict(zip(labels, numbers, strict=False))

    @torch.no_grad()
    def _learn(self, step: int, player: Player, grads: Mapping[str, Tensor], norm: Tensor) -> None:
        if self.clip is not None:
            torch._foreach_mul_(list(grads.values()), (self.clip / (norm + 1e-6)).clamp_(max=1.0))  # pyright: ignore[reportPrivateUsage]
        for key, grad in grads.items():
            player.parameters[key].grad = grad
        factor = self.learning_rate(step) / self.lr
        for group in player.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        player.optimizer.step()
        if player.ema:
            update = step // player.every
            decay = min(self.ema, (1 + update) / (10 + update))
            averages, parameters = list(player.ema.values()), list[Tensor](player.parameters.values())
            torch._foreach_lerp_(averages, parameters, 1 - decay)  # pyright: ignore[reportPrivateUsage]
        for key in grads:
            player.parameters[key].grad = None

    def _check(self, step: int, loss: float, norm: float, each: Tensor, player: Player, job: Job) -> None:
        """Raise `NumericsError` naming step, row and time where a loss or its gradient is not finite."""
        if math.isfinite(loss) and math.isfinite(norm):
            return
        advice = "lower the learning rate or check the data"
        if math.isfinite(loss):
            raise NumericsError(
                f"the gradient of {job.name} is {norm} at step {step} (player '{player.name}', loss {loss:.6g}); {advice}, or "
                f"look for a square root or a division at 0 in the loss"
            )
        bad = (~torch.isfinite(each.detach())).nonzero().flatten().tolist()
        times = job.times()
        at = (
            f", t = {float(times.reshape(-1)[bad[0]]):.6g}"
            if bad and isinstance(times, Tensor) and times.numel() > bad[0]
            else ""
        )
        where = f"row {bad[0]} of the batch{at}" if bad else "every row is finite, their mean overflows"
        raise NumericsError(f"{job.name} is {loss} at step {step} ({where}); {advice}")


def _gradients(value: Tensor, player: Player, *, keep: bool) -> dict[str, Tensor]:
    """The gradients of a player's loss, averaged over the processes; parameters it does not depend on have none.

    Each is a tensor of its own, laid out as its parameter: `autograd.grad` returns one tensor for two parameters that are added,
    and transposed ones from a double backward, which fused AdamW reads as if they were not.
    """
    if not value.requires_grad:
        raise IncompatibleError(f"the loss of player '{player.name}' depends on none of its parameters: nothing would be learnt")
    found = torch.autograd.grad(value, list(player.parameters.values()), retain_graph=keep, allow_unused=True)
    present, places = dict[str, Tensor](), set[int]()
    for (key, p), grad in zip(player.parameters.items(), found, strict=True):
        if cast(Tensor | None, grad) is not None:
            shared = grad.stride() != p.stride() or grad.data_ptr() in places
            present[key] = torch.empty_like(p).copy_(grad) if shared else grad
            places.add(present[key].data_ptr())
    distributed.average(present.values())
    return present


def _norm(grads: list[Tensor]) -> Tensor:
    """The joint 2-norm; 0 of nothing."""
    if not grads:
        return torch.zeros(())
    norms = torch._foreach_norm(grads)  # pyright: ignore[reportPrivateUsage]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
