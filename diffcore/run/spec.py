"""The spec of a whole pipeline: one frozen class, read from YAML or a mapping."""

from __future__ import annotations

from typing import Literal

import attrs

from diffcore.declare.component import component, param
from diffcore.declare.errors import SpecError
from diffcore.learning.data import Data
from diffcore.learning.loss import Loss
from diffcore.learning.metric import Metric
from diffcore.learning.network import Network
from diffcore.learning.trainer import Trainer
from diffcore.numerics.flow_map import FlowMap
from diffcore.numerics.guidance import Guidance
from diffcore.numerics.process import Process
from diffcore.numerics.solver import Solver

FORMAT = 1


@component
class Sampling:
    """What `sample` makes when nothing else is asked."""

    n: int = param(default=64, ge=1, le=100_000_000, doc="number of samples")
    batch: int = param(default=64, ge=1, le=10_000_000, doc="samples computed at once; the samples do not depend on it")
    cond: dict[str, int | str] = param(
        factory=dict,
        ge=0,
        le=1_000_000_000,
        doc="condition name -> class (number or name); conditions not named are cycled over all classes",
    )
    mode: Literal["eager", "compile", "graph"] = param(default="eager", doc="how the loop runs; 'graph' needs CUDA")
    dtype: Literal["float32", "float64", "bfloat16"] = param(
        default="float32",
        doc="precision: float64 of network and state; bfloat16 of the network alone, as a state of it loses too much",
    )


@component
class EvaluationPlan:
    """What `evaluate` measures: every metric, on the main solver and on every solver of the table at every call budget."""

    n: int = param(default=500, ge=1, le=1_000_000, doc="samples per row of the table")
    batch: int = param(default=250, ge=1, le=10_000_000, doc="samples computed at once")
    solvers: tuple[Solver, ...] = param(default=(), doc="solvers to compare")
    calls: tuple[int, ...] = param(default=(), ge=1, le=1_000_000, doc="budgets: calls of the guided network per sample")
    seed: int = param(default=1, ge=0, doc="seed of the evaluated samples, apart from that of shown ones")


@component
class Spec:
    """A pipeline: data, process, network, objective, and how to train, sample and measure it."""

    diffcore: int = param(default=FORMAT, ge=1, le=FORMAT, doc="version of the spec format")
    name: str = param(default="run", doc="name of the run, also of its directory")
    seed: int = param(default=0, ge=0, doc="seed of initialisation, data order and training noise")
    init: str | None = param(default=None, doc="run directory or weights file to start training from")
    data: Data = param(doc="where samples come from")
    process: Process = param(doc="how data becomes noise")
    network: Network = param(doc="the network to train")
    prediction: str = param(default="velocity", doc="what the network learns to predict: x0, eps, v, score, velocity, edm, ...")
    sigma_data: float = param(default=0.5, ge=1e-06, le=1e6, doc="standard deviation of the data in the network's range")
    loss: Loss = param(doc="the objective")
    trainer: Trainer = param(factory=Trainer, doc="the training program")
    flow_map: FlowMap | None = param(default=None, doc="how the network is read as a flow map, if it is one")
    guidance: tuple[Guidance, ...] = param(default=(), doc="guidance, the first innermost")
    solver: Solver = param(doc="the main solver")
    sampling: Sampling = param(factory=Sampling, doc="what is sampled")
    metrics: tuple[Metric, ...] = param(default=(), doc="what is measured")
    evaluation: EvaluationPlan = param(factory=EvaluationPlan, doc="on how many samples of which solvers")

    @name.validator  # pyright: ignore[reportUntypedFunctionDecorator, reportAttributeAccessIssue]
    def _one_folder(self, attribute: attrs.Attribute[str], value: str) -> None:
        """The name is that of a folder beside those of other runs."""
        if value.strip() in ("", ".", "..") or len(value) > 100 or not value.isprintable() or set(value) & set("/\\"):
            raise SpecError(
                f"'name' of {type(self).__name__} must be one folder's name (the run goes to runs/NAME): at most 100 printable "
                f"characters without / and \\, and not '.' or '..'; got {value[:100]!r}"
            )


SECTIONS = tuple(a.name for a in attrs.fields(Spec))
