"""Every network as a function of x, t, s and the label: what must matter does, what must not does not."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
import torch
from diffcore_nets.dit import DiT
from diffcore_nets.mlp import MLP
from diffcore_nets.unet import UNet
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import diffcore as dc

CLASSES = 3
CASES: dict[str, tuple[dc.Network, tuple[int, ...]]] = {
    "mlp": (MLP(width=16, depth=2, second_time=True), (3,)),
    "unet": (UNet(width=8, multipliers=(1, 2), attention=(0,), head_width=4, second_time=True), (2, 10, 12)),
    "dit": (DiT(width=16, depth=2, patch=2, head_width=8, second_time=True), (2, 6, 7)),
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[dc.Network, tuple[int, ...]]:
    return CASES[request.param]


def trained(network: dc.Network, shape: tuple[int, ...]) -> nn.Module:
    """A float64 network whose parameters were all moved, so that no zero-initialised branch hides another."""
    net = network.build(shape, {"label": CLASSES}).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def inputs(shape: tuple[int, ...], batch: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    t = torch.linspace(0.9, 0.3, batch, dtype=torch.float64)
    return torch.randn(batch, *shape, dtype=torch.float64), t, t / 2, torch.arange(batch) % CLASSES


def test_untrained_network_is_zero(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    net = case[0].build(case[1], {"label": CLASSES})
    x, t, s, label = inputs(case[1])
    assert not net(x.float(), t.float(), s.float(), label=label).any()


def test_every_input_matters(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    """Each row of the output moves by more than 1e-3 of its norm with x, t, s and label."""
    net = trained(*case)
    x, t, s, label = inputs(case[1])
    out, once = net(x, t, s, label=label), net(x, t, label=label)
    pairs = {
        "x": (net(x + 0.1, t, s, label=label), out),
        "t": (net(x, t - 0.05, label=label), once),  # without s, since t - s alone would tell
        "s": (net(x, t, s - 0.05, label=label), out),
        "label": (net(x, t, s, label=label + 1), out),
    }
    for name, (moved, still) in pairs.items():
        change = (moved - still).flatten(1).norm(dim=1) / still.flatten(1).norm(dim=1)
        assert change.min() > 1e-3, name


def test_null_token_is_no_label(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    net = trained(*case)
    x, t, s, label = inputs(case[1])
    null = torch.full_like(label, CLASSES)
    assert net.null_cond == {"label": CLASSES}
    torch.testing.assert_close(net(x, t, s, label=null), net(x, t, s), rtol=0, atol=0)
    torch.testing.assert_close(net(x, t, s, label=null), net(x, t, s, label=None), rtol=0, atol=0)


def test_rows_do_not_mix(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    net = trained(*case)
    x, t, s, label = inputs(case[1])
    out = net(x, t, s, label=label)
    for i in range(len(x)):
        alone = net(x[i : i + 1], t[i : i + 1], s[i : i + 1], label=label[i : i + 1])
        torch.testing.assert_close(alone[0], out[i], rtol=0, atol=1e-12)


def test_one_time_serves_the_batch(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    net = trained(*case)
    x, t, _, _ = inputs(case[1])
    torch.testing.assert_close(net(x, t[0]), net(x, t[:1].repeat(len(x))), rtol=0, atol=0)


def test_without_s_the_map_is_instantaneous(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    net = trained(*case)
    x, t, _, label = inputs(case[1])
    torch.testing.assert_close(net(x, t, label=label), net(x, t, t, label=label), rtol=0, atol=0)


@pytest.mark.parametrize("moving", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, -1)])
def test_forward_derivative_is_the_limit_of_differences(
    case: tuple[dc.Network, tuple[int, ...]], moving: tuple[int, int, int]
) -> None:
    """jvp in x, t and s equals (f(p + h v) - f(p - h v)) / 2h with h = 1e-5, so to about h^2 and 1e-16 / h."""
    net = trained(*case)
    x, t, s, label = inputs(case[1])
    tangents = tuple(m * torch.randn_like(p) for m, p in zip(moving, (x, t, s), strict=True))

    def function(*p: Tensor) -> Tensor:
        return net(*p, label=label)

    _, derivative = torch.func.jvp(function, (x, t, s), tangents)
    h = 1e-5
    ends = [function(*(p + sign * h * v for p, v in zip((x, t, s), tangents, strict=True))) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * h)
    torch.testing.assert_close(derivative, difference, rtol=1e-5, atol=1e-5 * difference.abs().max().item())


def test_forward_and_reverse_derivatives_are_adjoint(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    """<u, J v> = <J^T u, v>: fused attention in the reverse pass, plain attention in the forward one."""
    net = trained(*case)
    x, t, _, label = inputs(case[1])
    u, v = torch.randn_like(x), torch.randn_like(x)
    _, forward = torch.func.jvp(lambda y: net(y, t, label=label), (x,), (v,))
    _, pull = torch.func.vjp(lambda y: net(y, t, label=label), x)
    torch.testing.assert_close((u * forward).sum(), (pull(u)[0] * v).sum(), rtol=1e-10, atol=0)


def test_second_derivatives_are_symmetric(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    """<u, H v> = <v, H u> for the Hessian of a scalar of the output, where plain attention is asked for."""
    net = trained(*case)
    x, t, _, label = inputs(case[1])
    u, v = torch.randn_like(x), torch.randn_like(x)
    slope = torch.func.grad(lambda y: net(y, t, label=label).square().sum())
    with sdpa_kernel(SDPBackend.MATH):
        first, second = (torch.func.jvp(slope, (x,), (w,))[1] for w in (v, u))
    torch.testing.assert_close((u * first).sum(), (v * second).sum(), rtol=1e-9, atol=0)


def test_compiles_to_one_graph(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    net = trained(*case)
    x, t, s, label = inputs(case[1])
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, t, s, label=label), net(x, t, s, label=label), rtol=0, atol=0)


def test_every_weight_learns(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    """No entry of any weight has a zero gradient (label 3 is the null token, so that its row is used too).

    Biases are not looked at: softmax does not see that of the keys.
    """
    net = trained(*case)
    x, t, s, _ = inputs(case[1])
    net(x, t, s, label=torch.arange(CLASSES + 1)).square().sum().backward()
    weights = {name: p for name, p in net.named_parameters() if name.endswith("weight")}
    assert [name for name, p in weights.items() if p.grad is None or not p.grad.all()] == []


def test_weights_of_one_time_continue_as_a_flow_map(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    """A network of two times that takes the weights of one of one time is the same function for every s."""
    network, shape = case
    once, twice = trained(attrs.evolve(network, second_time=False), shape), network.build(shape, {"label": CLASSES}).double()
    fresh = twice.load_state_dict(once.state_dict(), strict=False)
    x, t, s, label = inputs(shape)
    assert fresh.unexpected_keys == []
    assert all("gap" in key for key in fresh.missing_keys)
    torch.testing.assert_close(twice(x, t, s, label=label), once(x, t, label=label), rtol=0, atol=0)


def test_several_conditions_add(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    net = case[0].build(case[1], {"label": 3, "colour": 2})
    assert net.null_cond == {"label": 3, "colour": 2}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x, t, _, label = inputs(case[1])
    out = net(x.float(), t.float(), label=label, colour=label * 0)
    assert (out - net(x.float(), t.float(), label=label)).abs().max() > 1e-3


def test_unknown_condition_and_time_per_pixel_are_refused(case: tuple[dc.Network, tuple[int, ...]]) -> None:
    net = case[0].build(case[1], {"label": CLASSES})
    x, t, _, label = inputs(case[1])
    with pytest.raises(dc.IncompatibleError, match=r"'lable'.*has: label"):
        net(x.float(), t.float(), lable=label)
    with pytest.raises(dc.IncompatibleError, match="one time per sample"):
        net(x.float(), torch.rand_like(x.float()))


@pytest.mark.parametrize("name", CASES)
def test_second_time_needs_the_field(name: str) -> None:
    network, shape = CASES[name]
    assert network.takes_second_time
    single = attrs.evolve(network, second_time=False)
    x, t, s, _ = inputs(shape)
    assert not single.takes_second_time
    with pytest.raises(dc.IncompatibleError, match="second_time: true"):
        single.build(shape, {})(x.float(), t.float(), s.float())
