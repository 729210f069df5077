"""Exponential integrators for diffcore."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The solvers of this distribution."""
    yield dc.Component("dpm-solver-2", "diffcore_dpm.dpm_solver_2:DPMSolver2", "singlestep, noise prediction (Lu et al. 2022)")
    yield dc.Component("dpm-solver-3", "diffcore_dpm.dpm_solver_3:DPMSolver3", "singlestep, third order (Lu et al. 2022)")
    yield dc.Component("dpmpp-2s", "diffcore_dpm.dpmpp_2s:DPMpp2S", "singlestep, data prediction (Lu et al. 2022)")
    yield dc.Component("dpmpp-3m", "diffcore_dpm.dpmpp_3m:DPMpp3M", "third-order multistep, data prediction (Lu et al. 2022)")
    yield dc.Component("dpmpp-2m-sde", "diffcore_dpm.dpmpp_2m_sde:DPMpp2MSDE", "multistep on the reverse SDE (Lu et al. 2022)")
    yield dc.Component("dpmpp-3m-sde", "diffcore_dpm.dpmpp_3m_sde:DPMpp3MSDE", "three-step on the reverse SDE (Crowson 2023)")
    yield dc.Component("dpmpp-sde", "diffcore_dpm.dpmpp_sde:DPMppSDE", "midpoint rule on the reverse SDE (Crowson 2022)")
    yield dc.Component("unipc", "diffcore_dpm.unipc:UniPC", "multistep with a free corrector (Zhao et al. 2023)")
    yield dc.Component("deis", "diffcore_dpm.deis:DEIS", "multistep, polynomial in t or sigma/alpha (Zhang and Chen 2023)")
    yield dc.Component(
        "exp-adams", "diffcore_dpm.exp_adams:ExpAdams", "exponential Adams of any order, with corrector (Norsett 1969)"
    )
