"""The hooks of diffcore. A plugin implements the ones it needs; each yields declarations and imports nothing heavy.

A hook lists the kinds its components may have; the first is the default of `Component.kind`.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from diffcore.declare.component import Component
from diffcore.declare.kinds import CORE, Command, Kind

API_VERSION = 1
"""The version of the hooks and base classes. Within one version they are only added to."""

VERSION = "0.1.0"
"""The version of the core, which plugins may ask for in their metadata."""

hookspec = pluggy.HookspecMarker("diffcore")
hookimpl = pluggy.HookimplMarker("diffcore")

_OWN: dict[str, tuple[str, ...]] = {
    "diffcore_processes": ("process", "noise"),
    "diffcore_networks": ("network",),
    "diffcore_losses": ("loss", "weighting", "time_law"),
    "diffcore_guidance": ("guidance",),
    "diffcore_solvers": ("solver", "grid"),
    "diffcore_flow_maps": ("flow_map",),
    "diffcore_data": ("data", "coupling"),
    "diffcore_metrics": ("metric",),
    "diffcore_trainers": ("trainer",),
}
KINDS = {**_OWN, "diffcore_components": tuple(kind for kind in CORE if not any(kind in kinds for kinds in _OWN.values()))}
"""Hook name -> kinds of the core that its components may have, the default first. `diffcore_components` carries the kinds of
plugins too, and has no default."""
HOOKS = (*KINDS, "diffcore_commands")
"""The names of all hooks."""


@hookspec
def diffcore_processes() -> Iterable[Component]:
    """Forward processes: how data turns into noise, `x_t = alpha_t x_0 + sigma_t eps` or any other corruption.

    Base classes: `diffcore.Process`, `diffcore.AffineProcess` (give `coeffs`, everything else follows), and `diffcore.NoiseLaw`
    (`kind="noise"`), the law of their noise.

        @dc.hookimpl
        def diffcore_processes():
            yield dc.Component("flow", "my_plugin.flow:Flow", "straight line from data to noise (Liu et al. 2022)")
    """
    return ()


@hookspec
def diffcore_networks() -> Iterable[Component]:
    """Networks. Base class: `diffcore.Network`, whose `build(shape, cond)` makes the `torch.nn.Module`.

    @dc.hookimpl
    def diffcore_networks():
        yield dc.Component("mlp", "my_plugin.mlp:MLP", "a perceptron for vectors")
    """
    return ()


@hookspec
def diffcore_losses() -> Iterable[Component]:
    """Objectives, and the weightings and time laws they are made of.

    Base classes: `diffcore.Loss`, `diffcore.Weighting` (`kind="weighting"`), `diffcore.TimeLaw` (`kind="time_law"`).

        @dc.hookimpl
        def diffcore_losses():
            yield dc.Component("denoising", "my_plugin.denoising:Denoising", "regression of any target")
            yield dc.Component("min-snr", "my_plugin.weightings:MinSNR", "Hang et al. 2023", kind="weighting")
    """
    return ()


@hookspec
def diffcore_guidance() -> Iterable[Component]:
    """Guidance: wraps the denoiser, the solver or both. Base class: `diffcore.Guidance`. Composed in list order.

    @dc.hookimpl
    def diffcore_guidance():
        yield dc.Component("cfg", "my_plugin.cfg:CFG", "classifier-free guidance (Ho and Salimans 2022)")
    """
    return ()


@hookspec
def diffcore_solvers() -> Iterable[Component]:
    """Solvers and time grids. Base classes: `diffcore.Stepper` (plan, init, step), `diffcore.Program` (frames), `diffcore.Grid`
    (`kind="grid"`).

    @dc.hookimpl
    def diffcore_solvers():
        yield dc.Component("dpmpp-2m", "my_plugin.dpmpp:DPMpp2M", "second-order multistep (Lu et al. 2022)")
        yield dc.Component("karras", "my_plugin.karras:Karras", "Karras et al. 2022", kind="grid")
    """
    return ()


@hookspec
def diffcore_flow_maps() -> Iterable[Component]:
    """Flow maps: read a network as the solution map from any time t to any time s. Base class: `diffcore.FlowMap`.

    @dc.hookimpl
    def diffcore_flow_maps():
        yield dc.Component("mean-flow", "my_plugin.meanflow:MeanFlow", "average velocity (Geng et al. 2025)")
    """
    return ()


@hookspec
def diffcore_data() -> Iterable[Component]:
    """Data sources and couplings of data with noise. Base classes: `diffcore.Data`, `diffcore.Coupling` (`kind="coupling"`).

    @dc.hookimpl
    def diffcore_data():
        yield dc.Component("two-moons", "my_plugin.toy:TwoMoons", "two half circles in the plane")
    """
    return ()


@hookspec
def diffcore_metrics() -> Iterable[Component]:
    """Metrics of samples, fields or likelihoods. Base class: `diffcore.Metric`.

    @dc.hookimpl
    def diffcore_metrics():
        yield dc.Component("sliced-wasserstein", "my_plugin.sw:SlicedWasserstein", "Rabin et al. 2011")
    """
    return ()


@hookspec
def diffcore_trainers() -> Iterable[Component]:
    """Training programs: who learns, from which loss, with which optimiser. Base class: `diffcore.Trainer`.

    @dc.hookimpl
    def diffcore_trainers():
        yield dc.Component("adversarial", "my_plugin.gan:Adversarial", "generator and discriminator in turn")
    """
    return ()


@hookspec
def diffcore_components() -> Iterable[Component | Kind]:
    """Components of further kinds, each with its `kind`, and kinds of one's own.

    A kind is a base class, marked with `diffcore.kind`. Those that several families share are in the core; a plugin declares its
    own by `diffcore.Kind`, with the checks that the conformance kit runs for its components and the template that `diffcore new
    plugin` writes. Any field whose type is the base class is then a choice among them, in specs, schema and messages.

        @dc.hookimpl
        def diffcore_components():
            yield dc.Component("blur", "my_plugin.blur:Blur", "convolution with a Gaussian", kind="operator")
            yield dc.Kind("gauge", "my_plugin.gauge:Gauge", "what is read off a state", checks="my_plugin.checks:CHECKS")
            yield dc.Component("norm", "my_plugin.gauge:Norm", "the length of a state", kind="gauge")
    """
    return ()


@hookspec
def diffcore_commands() -> Iterable[Command]:
    """Subcommands of `diffcore`: click commands, imported when they are run or their own help is asked.

    `diffcore --help` lists them under their distribution. A command of the core cannot be replaced. `diffcore.commands` has the
    options and helpers that the commands of the core are made of.

        @dc.hookimpl
        def diffcore_commands():
            yield dc.Command("quantise", "my_plugin.commands:quantise", "Round the weights of a run.")
    """
    return ()
