"""Score SDEs for diffcore: their samplers, their likelihood, and the variational diffusion model."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The solvers of this distribution."""
    yield dc.Component(
        "reverse-diffusion",
        "diffcore_score_sde.reverse_diffusion:ReverseDiffusion",
        "the forward kernel's own discretisation of the reverse SDE (Song et al. 2021)",
    )
    yield dc.Component(
        "predictor-corrector",
        "diffcore_score_sde.predictor_corrector:PredictorCorrector",
        "any solver, then Langevin steps at the new noise level (Song et al. 2021)",
    )


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """The process of this distribution."""
    yield dc.Component(
        "vdm", "diffcore_score_sde.vdm_process:VDM", "variance preserving with a learned log-SNR (Kingma et al. 2021)"
    )


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """The loss, the weighting and the time law of this distribution."""
    yield dc.Component("vdm", "diffcore_score_sde.vdm_loss:VDMLoss", "continuous-time variational bound (Kingma et al. 2021)")
    yield dc.Component(
        "likelihood",
        "diffcore_score_sde.weighting:Likelihood",
        "g^2 on the score: a bound on the KL divergence (Song et al. 2021)",
        kind="weighting",
    )
    yield dc.Component(
        "likelihood-importance",
        "diffcore_score_sde.time_law:LikelihoodImportance",
        "density g^2 / sigma^2, so that the likelihood weight is constant (Song et al. 2021)",
        kind="time_law",
    )


@dc.hookimpl
def diffcore_metrics() -> Iterator[dc.Component]:
    """The metrics of this distribution."""
    yield dc.Component(
        "pf-ode-likelihood",
        "diffcore_score_sde.pf_ode_likelihood:PFODELikelihood",
        "log-likelihood and bits/dim by the probability-flow ODE (Song et al. 2021)",
    )
    yield dc.Component(
        "round-trip",
        "diffcore_score_sde.round_trip:RoundTrip",
        "error of encoding data as noise and back; size of the codes (Song et al. 2021)",
    )
    yield dc.Component(
        "fokker-planck-residual",
        "diffcore_score_sde.fokker_planck:FokkerPlanckResidual",
        "how far the score is from any evolving density (Lai et al. 2023)",
    )
