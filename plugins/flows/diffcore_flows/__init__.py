"""The flow view for diffcore: couplings, rectified flows, interpolants between any two distributions, normalising flows."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """The interpolants."""
    yield dc.Component(
        "interpolant", "diffcore_flows.interpolant:Interpolant", "line to noise with latent noise gamma(t) (Albergo et al. 2023)"
    )
    yield dc.Component("source", "diffcore_flows.source:SourceFlow", "line from any source to the data (Liu et al. 2022)")
    yield dc.Component("empirical", "diffcore_flows.empirical:Empirical", "samples of a data set as noise", kind="noise")
    yield dc.Component(
        "matrix-path",
        "diffcore_flows.matrix_path:MatrixPath",
        "conditional affine maps with matrices (Lai et al. 2025, ch. 5)",
    )


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """The two objectives of the flow view."""
    yield dc.Component(
        "flow-matching", "diffcore_flows.flow_matching:FlowMatching", "regress the velocity of pairs (Lipman et al. 2023)"
    )
    yield dc.Component(
        "maximum-likelihood", "diffcore_flows.maximum_likelihood:MaximumLikelihood", "exact likelihood of a normalising flow"
    )


@dc.hookimpl
def diffcore_data() -> Iterator[dc.Component]:
    """The couplings, and the pairs of a trained run."""
    yield dc.Component(
        "minibatch-ot",
        "diffcore_flows.minibatch_ot:MinibatchOT",
        "optimal transport in a batch (Tong et al. 2024)",
        kind="coupling",
    )
    yield dc.Component("paired", "diffcore_flows.paired:Paired", "the noise that the data carries with it", kind="coupling")
    yield dc.Component("reflow", "diffcore_flows.reflow:Reflow", "pairs (sample, noise) of a trained run (Liu et al. 2022)")


@dc.hookimpl
def diffcore_metrics() -> Iterator[dc.Component]:
    """What the paths of a flow are like."""
    yield dc.Component("straightness", "diffcore_flows.straightness:Straightness", "bend of the paths (Liu et al. 2022)")
    yield dc.Component("transport-cost", "diffcore_flows.transport_cost:TransportCost", "how far samples travel from their noise")


@dc.hookimpl
def diffcore_networks() -> Iterator[dc.Component]:
    """Normalising flows."""
    yield dc.Component("real-nvp", "diffcore_flows.real_nvp:RealNVP", "affine couplings (Dinh et al. 2017)")
    yield dc.Component("planar-flow", "diffcore_flows.planar:PlanarFlow", "bends along one direction (Rezende and Mohamed 2015)")
    yield dc.Component("residual-flow", "diffcore_flows.residual:ResidualFlow", "contractive residuals (Chen et al. 2019)")
    yield dc.Component("cnf", "diffcore_flows.cnf:CNF", "an ODE with its divergence (Chen et al. 2018, Grathwohl et al. 2019)")


@dc.hookimpl
def diffcore_flow_maps() -> Iterator[dc.Component]:
    """Normalising flows as flow maps."""
    yield dc.Component(
        "normalising-flow", "diffcore_flows.normalising_map:NormalisingFlowMap", "to noise and back by a normalising flow"
    )
