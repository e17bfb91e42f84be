"""Layers with stacked weights are those of each model."""

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import scaled_dot_product_attention

from plurallm.config.learning import ModelConfig
from plurallm.learn.layers import LayerNorm, Linear, linear, plain_attention
from plurallm.learn.transformer import PreferenceTransformer

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


@pytest.mark.parametrize("masked", [False, True])
def test_plain_attention_equals_the_fused_one_and_so_do_its_gradients(masked):
    draws = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, points, 4, generator=draws, dtype=torch.float64, requires_grad=True)
        for points in (9, 7, 7)
    )
    exists = torch.arange(7) < torch.tensor([[4], [7]])
    mask = torch.zeros(2, 7).double().masked_fill(~exists, -torch.inf)[:, None, None]
    results = [
        attention(query, key, value, mask if masked else None)
        for attention in (plain_attention, scaled_dot_product_attention)
    ]
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    gradients = [
        torch.autograd.grad(result.square().sum(), (query, key, value)) for result in results
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_model_that_is_trained_takes_the_plain_attention_where_steps_are_recorded(monkeypatch):
    taken = []

    def attention(*inputs):
        taken.append(len(inputs))
        return plain_attention(*inputs)

    monkeypatch.setattr("plurallm.learn.layers.plain_attention", attention)
    model = PreferenceTransformer(24, SMALL, seed=3)
    inputs = (torch.ones(1, 9, 24), torch.ones(1, 9), 5, 5)
    model(*inputs)
    assert not taken
    monkeypatch.setattr("plurallm.learn.layers.records_steps", lambda device: True)
    model(*inputs)
    assert len(taken) == SMALL.layers
    with torch.inference_mode():
        model(*inputs)
    assert len(taken) == SMALL.layers


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
