"""Checks of guidance: the same on every prediction, on any batch, in any composition; honest cost and needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from diffcore.declare.errors import DiffcoreError
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.guidance import Guidance
from diffcore.numerics.meter import Meter
from diffcore.numerics.process import Process
from diffcore.numerics.sampling import sample
from diffcore.numerics.solver import Moved, Plan, Solver, Stepper
from diffcore.numerics.tree import State, lincomb
from diffcore.testing.base import (
    SkipError,
    Subject,
    accepted,
    check,
    copied,
    normal,
    poisoned_noise,
    refused,
    same,
    unchanged,
    worst,
)
from diffcore.testing.oracles import ExactNet, Mixture, golden_mixture, instant
from diffcore.testing.recording import networks_called

LABELS = torch.tensor([0, 1, 2, 0, 1, 1])


class Euler(Stepper):
    """x_s = x_t + (s - t) v: the plainest solver, for guidance that wraps one."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity"})

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """The time and the (negative) length of each step."""
        t, s = process.pairs(grid)
        return Plan(t=t, h=s.t - t.t)

    def step(self, field: Field, x: State, row: Any, carry: Any, z: State) -> Moved:
        """One evaluation."""
        return Moved(lincomb((1, x), (row.h, field.velocity(x, row.t))))


def _data(subject: Subject) -> Mixture:
    """The golden mixture over the event shape the guidance is made for (`event_shape`, default (4,))."""
    return golden_mixture(tuple(getattr(subject.cls, "event_shape", (4,))))


def _field(subject: Subject, process: Process, prediction: str = "x0", guidance: list[Any] | None = None) -> Field:
    chosen = [subject.component] if guidance is None else guidance
    return _data(subject).field(process, prediction, guidance=chosen, cond={"label": LABELS})


def _processes(subject: Subject) -> list[Any]:
    found = subject.processes(subject.component.requires)
    usable = [p for p in found if not refused(lambda p=p: _field(subject, p))]
    if not usable:
        raise SkipError(f"refused by every reference process: {refused(lambda: _field(subject, found[0]))}")
    return usable


def _x(subject: Subject) -> Tensor:
    return normal(len(LABELS), *_data(subject).shape)


def _mean(field: Field, x: Tensor, t: float) -> Tensor:
    with torch.no_grad():
        return field.posterior(x, t).mean.detach()


@check("guidance")
def same_for_every_prediction(subject: Subject) -> None:
    """The guided mean does not depend on what the network predicts (1e-8), is finite and of the shape of x."""
    for process in _processes(subject):
        for fraction in (0.1, 0.5, 0.9):
            t, x = fraction * process.T, _x(subject)
            with torch.no_grad():
                means = {
                    p: _field(subject, process, p).posterior(x, t).mean.detach() for p in accepted(process, process.predictions)
                }
            first = means["x0"]
            assert first.shape == x.shape, f"the guided mean has shape {tuple(first.shape)}, x has {tuple(x.shape)}"
            assert bool(torch.isfinite(first).all()), f"the guided mean at {fraction} T is not finite"
            for name, mean in means.items():
                assert same(mean, first, 1e-8), (
                    f"{type(process).__name__} at {fraction} T: '{name}' gives a mean {worst(mean, first):.3g} off that of 'x0'"
                )


@check("guidance")
def row_by_row(subject: Subject) -> None:
    """The guided mean of a sample does not depend on the rest of its batch (1e-9)."""
    process = _processes(subject)[0]
    field, x, rows = _field(subject, process), _x(subject), [1, 4]
    with torch.no_grad():
        whole = field.posterior(x, 0.5 * process.T).mean.detach()
        part = field.bound({"label": LABELS[rows]}).posterior(x[rows], 0.5 * process.T).mean.detach()
    assert same(part, whole[rows], 1e-9), f"samples {rows} computed alone differ by {worst(part, whole[rows]):.3g}"


@check("guidance")
def leaves_inputs_alone(subject: Subject) -> None:
    """x and the conditions are not changed, no global generator is used, and the same call gives the same."""
    process = _processes(subject)[0]
    field, x = _field(subject, process), _x(subject)
    with torch.no_grad(), poisoned_noise(), unchanged("x or a condition", x, LABELS):
        first = field.posterior(x, 0.5 * process.T).mean.detach()
    with torch.no_grad():
        again = field.posterior(x, 0.5 * process.T).mean.detach()
    assert same(first, again), "two calls with the same input differ"


@check("guidance")
def honest_needs(subject: Subject) -> None:
    """Guidance that does not declare needs = {"grad"} works with gradients off."""
    process = _processes(subject)[0]
    field = _field(subject, process)
    if "grad" in subject.component.needs:
        raise SkipError("declares that it needs gradients")
    with torch.no_grad():
        field.posterior(_x(subject), 0.5 * process.T)


@check("guidance")
def neutral(subject: Subject) -> None:
    """With its neutral fields the mean is the plain conditional one (1e-9), and close to it beside them (1e-3 for 1e-6).

    Those fields are the class attribute `neutral`, or weight = 1 where none is declared and there is a field `weight`. What
    returns early at the neutral setting is found beside it.
    """
    fields = _neutral(subject)
    for process in _processes(subject):
        x, t = _x(subject), 0.4 * process.T
        plain = _mean(_field(subject, process, guidance=[]), x, t)
        guided = _mean(_field(subject, process, guidance=[subject.make(**fields)]), x, t)
        assert same(guided, plain, 1e-9), (
            f"with {fields} it still changes the mean by {worst(guided, plain):.3g}; if other fields are neutral, name them in "
            f"the class attribute `neutral` (None: there are none)"
        )
        for beside in _beside(subject, fields):
            guided = _mean(_field(subject, process, guidance=[subject.make(**beside)]), x, t)
            assert same(guided, plain, 1e-3), (
                f"with {beside} it changes the mean by {worst(guided, plain):.3g}, with {fields} by nothing: the formula is "
                f"not neutral there"
            )


def _neutral(subject: Subject) -> dict[str, Any]:
    """The fields under which it changes nothing. Raises `SkipError` where none are known."""
    weight = {"weight": 1.0} if "weight" in {a.name for a in attrs.fields(subject.cls)} else ()
    declared = getattr(subject.cls, "neutral", weight)
    if declared is None:
        raise SkipError("declares that no setting of it is neutral")
    if declared == ():
        raise SkipError("no neutral setting is known: declare `neutral`, the fields under which it changes nothing (or None)")
    return dict(declared)


def _beside(subject: Subject, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The neutral fields with one number moved up or down by 1e-6, as far as the component accepts it."""
    for name, value in fields.items():
        step = 1e-6 * max(1.0, abs(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
        for moved in (value + step, value - step) if step else ():
            if not refused(lambda name=name, moved=moved: subject.make(**{**fields, name: moved})):
                yield {**fields, name: moved}


@check("guidance")
def direction(subject: Subject) -> None:
    """More than its neutral weight raises p(class | mean) of every sample under its label, less lowers it.

    For guidance that asks the network also without the given condition. The weight is the field `weight`, or the one number
    of `neutral`; where there is none, the fields of the example must raise it. On two classes of one covariance.
    """
    sides = list(_sides(subject)) or [(1.0, {})]
    ran = False
    for process in _processes(subject):
        several = bool((_witnessed(subject, process, torch.zeros_like(PAIR))[1].labels != 0).any())
        for sign, fields in sides if several else ():
            gain = torch.stack([_odds_gained(subject, process, fields, f) for f in (0.3, 0.5, 0.7)]) * sign
            what = (
                f"{type(process).__name__}: with {fields or 'the fields of its example'} the log-odds of the class given the mean"
            )
            assert float(gain.min()) > -1e-9, (
                f"{what} {'fall' if sign > 0 else 'rise'} by {-float(gain.min()):.3g}, must {'rise' if sign > 0 else 'fall'}: "
                f"the difference has the wrong sign, or w and 1 - w are exchanged"
            )
            assert float(gain.max()) > 1e-6, f"{what} do not change"
            ran = True
    if not ran:
        raise SkipError("asks the network for the given condition only")


PAIR = torch.tensor([0, 1, 1, 0, 1, 0])


def _sides(subject: Subject) -> Iterator[tuple[float, dict[str, Any]]]:
    """Its weight half above and half below neutral, as far as it accepts them, with the sign that p(class) must move by."""
    neutral = getattr(subject.cls, "neutral", None) or {}
    names = {a.name for a in attrs.fields(subject.cls)}
    fields = {**({"weight": 1.0} if "weight" in names else {}), **neutral}
    weight = "weight" if "weight" in fields else next(iter(fields), "") if len(fields) == 1 else ""
    for sign in (1.0, -1.0) if weight else ():
        moved = {weight: fields[weight] + sign / 2}
        if not refused(lambda moved=moved: subject.make(**moved)):
            yield sign, moved


def _odds_gained(subject: Subject, process: Process, fields: dict[str, Any], fraction: float) -> Tensor:
    """log p(c | mean) - log p(other | mean) of the guided mean minus that of the plain one, per sample."""
    shape = _data(subject).shape
    means = torch.tensor([-1.5, 1.0], dtype=torch.float64).reshape(2, *[1] * len(shape)).expand(2, *shape)
    data, x, t = Mixture([0.3, 0.7], means, [0.4, 0.4]), _x(subject), fraction * process.T

    def odds(guidance: list[Any]) -> Tensor:
        mean = _mean(data.field(process, "x0", guidance=guidance, cond={"label": PAIR}), x, t)
        return data.log_prob(mean, label=PAIR) - data.log_prob(mean, label=1 - PAIR)

    return odds([subject.make(**fields)]) - odds([])


@check("guidance")
def has_an_effect(subject: Subject) -> None:
    """It changes the mean of the conditional mixture somewhere, with the fields of its example."""
    processes = _processes(subject)
    denoiser = _field(subject, processes[0], guidance=[]).denoiser
    if subject.component.denoiser(denoiser) is denoiser:
        raise SkipError("changes the solver only")
    for process in processes:
        for fraction in (0.1, 0.5, 0.9):
            x, t = _x(subject), fraction * process.T
            if not same(_mean(_field(subject, process), x, t), _mean(_field(subject, process, guidance=[]), x, t), 1e-9):
                return
    raise AssertionError(
        "it changes the mean nowhere, at labels that matter: look at the branch taken where a condition is given, or name "
        "fields under which it acts in the class attribute `example`"
    )


class _Witness:
    """The exact network. It notes the labels it is asked for (-1: none); a deaf one does not heed them."""

    def __init__(self, net: ExactNet, *, deaf: bool = False) -> None:
        self.net, self.deaf, self.null_cond = net, deaf, net.null_cond
        self.labels = torch.empty(0, dtype=torch.int64)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Like the exact network."""
        self.labels = torch.cat([self.labels, torch.full((len(x),), -1) if label is None else label])
        return self.net(x, t, None if self.deaf else label)


def _witnessed(subject: Subject, process: Process, labels: Tensor, *, deaf: bool = False) -> tuple[Tensor, _Witness]:
    """The guided mean at .5 T under these labels, and the network that was asked for it."""
    witness = _Witness(_data(subject).net(process, "x0"), deaf=deaf)
    field = Field(Denoiser(witness, "x0", process), [subject.component], cond={"label": labels})
    return _mean(field, _x(subject), 0.5 * process.T), witness


@check("guidance")
def heeds_the_condition(subject: Subject) -> None:
    """The network is asked for the label of every sample, and another label gives another mean."""
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    for process in _processes(subject):
        mean, witness = _witnessed(subject, process, labels)
        for label in (0, 1):
            asked, wanted = int((witness.labels == label).sum()), int((labels == label).sum())
            assert asked >= wanted, f"{wanted} samples have the label {label}; the network was asked for it {asked} times"
        other, _ = _witnessed(subject, process, 1 - labels)
        deaf = (mean - other).abs().flatten(1).amax(1) < 1e-6
        assert not bool(deaf.any()), f"the mean of samples {deaf.nonzero().flatten().tolist()} does not depend on their label"


@check("guidance")
def deaf_network(subject: Subject) -> None:
    """Guidance by the difference that a condition makes changes nothing where it makes none (1e-8): its weights sum to 1."""
    labels, several = torch.zeros(len(LABELS), dtype=torch.int64), False
    for process in _processes(subject):
        mean, witness = _witnessed(subject, process, labels, deaf=True)
        several |= bool((witness.labels != 0).any())
        plain = _data(subject).mean(_x(subject), instant(process, 0.5 * process.T))
        assert not several or same(mean, plain, 1e-8), (
            f"the network gives the same with and without its condition, and yet the mean changes by {worst(mean, plain):.3g}: "
            f"the weights of the branches must sum to 1, and their sum go back as what they are ('x0' for means)"
        )
    if not several:
        raise SkipError("asks the network for the given condition only")


class _Answers:
    """A denoiser that keeps every posterior it gave, and copies of its tensors."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.process, self.base, self.null = inner, inner.process, inner, inner.null
        self.kept: list[tuple[Any, State, State]] = []

    def _keep(self, found: Any) -> Any:
        self.kept.append((found, copied(found.x), copied(found.value)))
        return found

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        """The posterior."""
        return self._keep(self.inner(x, t, **cond))

    def many(self, x: State, t: Any, conds: Any) -> list[Any]:
        """Several posteriors."""
        return [self._keep(found) for found in self.inner.many(x, t, conds)]


@check("guidance")
def leaves_answers_alone(subject: Subject) -> None:
    """What the denoiser below returned (x and its value, whatever it predicts) is not changed in place."""
    for process in _processes(subject):
        for prediction in accepted(process, process.predictions):
            answers = _Answers(_data(subject).denoiser(process, prediction))
            with torch.no_grad():
                subject.component.denoiser(answers)(_x(subject), 0.5 * process.T, label=LABELS)
            for found, x, value in answers.kept:
                assert same((found.x, found.value), (x, value)), (
                    f"what the denoiser returned was changed in place (prediction '{prediction}'): a posterior may be held by "
                    f"others, write `c = w * c`, never `c *= w` or `c.mul_(w)`"
                )


@check("guidance")
def composes(subject: Subject) -> None:
    """Between identities it does the same; applied twice it still gives a finite mean."""
    process = _processes(subject)[0]
    x, t, one = _x(subject), 0.5 * process.T, subject.component
    with torch.no_grad():
        alone = _field(subject, process).posterior(x, t).mean.detach()
        among = _field(subject, process, guidance=[Guidance(), one, Guidance()]).posterior(x, t).mean.detach()
        twice = _field(subject, process, guidance=[one, one]).posterior(x, t).mean.detach()
    assert same(among, alone), "between two identities it gives another mean"
    assert bool(torch.isfinite(twice).all()), "applied twice it gives NaN or Inf"


@check("guidance")
def counted_cost(subject: Subject) -> None:
    """Every network it calls, the one it was given or another, is called through a denoiser of that field, and counted."""
    process = _processes(subject)[0]
    field = _field(subject, process)
    with torch.no_grad(), Meter() as meter, networks_called(field.base.net) as called:
        field.posterior(_x(subject), 0.5 * process.T)
    made = len(called)
    assert meter.calls == made > 0, (
        f"{made} calls of networks, {meter.calls} counted: ask `denoiser(x, t, ...)`, and a network of its own by "
        f"`denoiser.base.with_net(net)`"
    )
    assert meter.rows >= len(LABELS), f"{meter.rows} rows counted for a batch of {len(LABELS)}"


@check("guidance")
def samples(subject: Subject) -> None:
    """A guided run is finite, the same for the same seed, and leaves its solver a solver."""
    guidance = subject.component
    for process in _processes(subject):
        solver = guidance.solver(Euler())
        assert isinstance(solver, Solver), f"`solver` returned {type(solver).__name__}, not a solver"
        x, grid = _x(subject) * process.T, torch.linspace(0.9, 0.1, 9, dtype=torch.float64) * process.T
        try:
            a, b = (sample(_field(subject, process), solver, x, grid=grid, seed=2).x for _ in range(2))
        except DiffcoreError as error:
            raise AssertionError(f"sampling on {type(process).__name__}: {type(error).__name__}: {error}") from None
        assert same(a, b), "two runs with one seed differ"
        assert not a.requires_grad, "the samples still carry a gradient graph"
