"""Layers with stacked weights are those of each model."""

import pytest
import torch
from torch.func import functional_call

from plurallm.config import ModelConfig
from plurallm.layers import LayerNorm, Linear, linear
from plurallm.model import PreferenceTransformer

SMALL = ModelConfig(width=32, embedder_layers=4, layers=3, heads=4, feedforward=48)


@pytest.mark.parametrize("layer", [Linear(5, 3), LayerNorm(5)])
def test_a_layer_with_stacked_weights_is_each_ones_own(layer):
    draws = torch.Generator().manual_seed(0)
    stacked = {
        name: torch.randn(4, *weight.shape, generator=draws)
        for name, weight in layer.named_parameters()
    }
    x = torch.randn(4, 7, 5, generator=draws)
    together = functional_call(layer, stacked, x)
    for row in range(4):
        own = {name: weight[row] for name, weight in stacked.items()}
        torch.testing.assert_close(together[row], functional_call(layer, own, x[row]))


def test_gradients_of_a_stacked_map_are_those_of_finite_differences():
    draws = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, generator=draws, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 4, 5), (2, 3, 5), (2, 3))
    ]
    assert torch.autograd.gradcheck(linear, inputs)
    gradients = torch.autograd.grad(linear(*inputs).square().sum(), inputs)
    assert all(gradient.is_contiguous() for gradient in gradients)


def test_stacked_models_equal_each_alone_and_so_do_their_gradients():
    models = [PreferenceTransformer(24, SMALL, seed).double() for seed in (3, 4)]
    names = [name for name, _ in models[0].named_parameters()]
    stacked = {
        name: torch.stack([dict(model.named_parameters())[name].detach() for model in models])
        for name in names
    }
    for weight in stacked.values():
        weight.requires_grad_()
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, 19, 24, generator=draws, dtype=torch.float64)
    share = torch.rand(2, 19, generator=draws, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    together = functional_call(models[0], stacked, (x, share, 7, 4, mask))
    gradients = torch.autograd.grad(together.square().sum(), list(stacked.values()))
    assert all(gradient.is_contiguous() for gradient in gradients)  # one kernel copies them all
    for row, model in enumerate(models):
        alone = model(x[row, None], share[row, None], 7, 4, mask[row, None])[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-12)
        expected = torch.autograd.grad(alone.square().sum(), [*model.parameters()])
        for gradient, own in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient[row], own, rtol=0, atol=1e-10)
