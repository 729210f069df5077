"""diffcore: any diffusion process with any prediction, any solver and any guidance its mathematics allows.

The public names are loaded on first use, so that listing plugins or reading a spec does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffcore.declare.component import Alias, Base, Component, Frozen, component, fielded, param
from diffcore.declare.entry import Entry, Plugin
from diffcore.declare.errors import (
    CheckpointError,
    DataError,
    DataWarning,
    DiffcoreError,
    IncompatibleError,
    NumericsError,
    PluginError,
    RunError,
    SpecError,
    UnknownComponentError,
    note,
)
from diffcore.declare.hookspecs import API_VERSION, VERSION, hookimpl
from diffcore.declare.kinds import Command, Kind, kind
from diffcore.specs.registry import Registry

if TYPE_CHECKING:
    from diffcore.learning.adapter import Adapter
    from diffcore.learning.contracts import Density, Likelihood, Operator, Reward
    from diffcore.learning.data import Coupling, Data, Range, Source
    from diffcore.learning.files import (
        read_npy,
        read_tensors,
        reading,
        require_memory,
        tensor_names,
        user_file,
        user_folder,
        user_path,
    )
    from diffcore.learning.loader import Loader
    from diffcore.learning.loss import Loss, TimeLaw, Weighting, dropped, mean_square, times_of, weight_from_x0
    from diffcore.learning.metric import Evaluation, Measured, Metric
    from diffcore.learning.network import Network
    from diffcore.learning.start import Start
    from diffcore.learning.trainer import Player, Trainer
    from diffcore.numerics.affine import ROWS, Coeffs, Posterior, Row, combine, convert, row
    from diffcore.numerics.calibration import Calibrated, Table, calibrate, calibrate_on, calibrated
    from diffcore.numerics.draw import Draw
    from diffcore.numerics.drive import Drive, drive
    from diffcore.numerics.event import Event
    from diffcore.numerics.fields import Denoiser, Field, Guided, second_derivatives
    from diffcore.numerics.flow_map import FlowMap, FlowMapSolver, flow_map_of
    from diffcore.numerics.guidance import Guidance
    from diffcore.numerics.laws import GaussianLaw, Law
    from diffcore.numerics.meter import Meter
    from diffcore.numerics.moments import along, conjugate_gradient, moments
    from diffcore.numerics.noise import WHITE, ByPart, NoiseLaw, White
    from diffcore.numerics.plan import Plan, any_of, asked
    from diffcore.numerics.process import AffineProcess, Corruption, Instant, Process, centred_pairs, refuse_shift
    from diffcore.numerics.readings import Reading
    from diffcore.numerics.rescoring import kernel, rescore
    from diffcore.numerics.sampling import Result, frames, sample
    from diffcore.numerics.solver import Frame, Grid, Moved, Program, Solver, Stepper, check_within
    from diffcore.numerics.span import Linear, Span, lam_at, moments_of_exp, phi
    from diffcore.numerics.tree import State, expand, leaves, lincomb, numbered, take, tree_map
    from diffcore.numerics.wrapped import Wrapped
    from diffcore.run.assemble import assemble
    from diffcore.run.pipeline import Pipeline
    from diffcore.run.spec import Spec

__version__ = VERSION

_LAZY = {
    "numerics.affine": ("ROWS", "Coeffs", "Posterior", "Row", "combine", "convert", "row"),
    "learning.adapter": ("Adapter",),
    "learning.contracts": ("Density", "Likelihood", "Operator", "Reward"),
    "learning.data": ("Coupling", "Data", "Range", "Source"),
    "learning.loader": ("Loader",),
    "numerics.fields": ("Denoiser", "Field", "Guided", "second_derivatives"),
    "learning.files": (
        "read_npy",
        "read_tensors",
        "reading",
        "require_memory",
        "tensor_names",
        "user_file",
        "user_folder",
        "user_path",
    ),
    "numerics.flow_map": ("FlowMap", "FlowMapSolver", "flow_map_of"),
    "numerics.guidance": ("Guidance",),
    "learning.loss": ("Loss", "TimeLaw", "Weighting", "dropped", "mean_square", "times_of", "weight_from_x0"),
    "learning.metric": ("Evaluation", "Measured", "Metric"),
    "learning.network": ("Network",),
    "numerics.draw": ("Draw",),
    "numerics.event": ("Event",),
    "numerics.noise": ("WHITE", "ByPart", "NoiseLaw", "White"),
    "numerics.drive": ("Drive", "drive"),
    "run.assemble": ("assemble",),
    "run.pipeline": ("Pipeline",),
    "numerics.readings": ("Reading",),
    "numerics.process": ("AffineProcess", "Corruption", "Instant", "Process", "centred_pairs", "refuse_shift"),
    "numerics.laws": ("GaussianLaw", "Law"),
    "numerics.rescoring": ("kernel", "rescore"),
    "numerics.sampling": ("Result", "frames", "sample"),
    "numerics.meter": ("Meter",),
    "numerics.moments": ("along", "conjugate_gradient", "moments"),
    "numerics.plan": ("Plan", "any_of", "asked"),
    "numerics.span": ("Linear", "Span", "lam_at", "moments_of_exp", "phi"),
    "numerics.solver": ("Frame", "Grid", "Moved", "Program", "Solver", "Stepper", "check_within"),
    "run.spec": ("Spec",),
    "learning.start": ("Start",),
    "learning.trainer": ("Player", "Trainer"),
    "numerics.calibration": ("Calibrated", "Table", "calibrate", "calibrate_on", "calibrated"),
    "numerics.wrapped": ("Wrapped",),
    "numerics.tree": ("State", "expand", "leaves", "lincomb", "numbered", "take", "tree_map"),
}
_WHERE = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "API_VERSION",
    "ROWS",
    "WHITE",
    "Adapter",
    "AffineProcess",
    "Alias",
    "Base",
    "ByPart",
    "Calibrated",
    "CheckpointError",
    "Coeffs",
    "Command",
    "Component",
    "Corruption",
    "Coupling",
    "Data",
    "DataError",
    "DataWarning",
    "Denoiser",
    "Density",
    "DiffcoreError",
    "Draw",
    "Drive",
    "Entry",
    "Evaluation",
    "Event",
    "Field",
    "FlowMap",
    "FlowMapSolver",
    "Frame",
    "Frozen",
    "GaussianLaw",
    "Grid",
    "Guidance",
    "Guided",
    "IncompatibleError",
    "Instant",
    "Kind",
    "Law",
    "Likelihood",
    "Linear",
    "Loader",
    "Loss",
    "Measured",
    "Meter",
    "Metric",
    "Moved",
    "Network",
    "NoiseLaw",
    "NumericsError",
    "Operator",
    "Pipeline",
    "Plan",
    "Player",
    "Plugin",
    "PluginError",
    "Posterior",
    "Process",
    "Program",
    "Range",
    "Reading",
    "Registry",
    "Result",
    "Reward",
    "Row",
    "RunError",
    "Solver",
    "Source",
    "Span",
    "Spec",
    "SpecError",
    "Start",
    "State",
    "Stepper",
    "Table",
    "TimeLaw",
    "Trainer",
    "UnknownComponentError",
    "Weighting",
    "White",
    "Wrapped",
    "along",
    "any_of",
    "asked",
    "assemble",
    "calibrate",
    "calibrate_on",
    "calibrated",
    "centred_pairs",
    "check_within",
    "combine",
    "component",
    "conjugate_gradient",
    "convert",
    "drive",
    "dropped",
    "expand",
    "fielded",
    "flow_map_of",
    "frames",
    "hookimpl",
    "kernel",
    "kind",
    "lam_at",
    "leaves",
    "lincomb",
    "mean_square",
    "moments",
    "moments_of_exp",
    "note",
    "numbered",
    "param",
    "phi",
    "read_npy",
    "read_tensors",
    "reading",
    "refuse_shift",
    "require_memory",
    "rescore",
    "row",
    "sample",
    "second_derivatives",
    "take",
    "tensor_names",
    "times_of",
    "tree_map",
    "user_file",
    "user_folder",
    "user_path",
    "weight_from_x0",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'diffcore' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"diffcore.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
