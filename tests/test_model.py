"""The transformer equals a plain one with a square mask, and does not care for order or padding."""

import pytest
import torch
from reference import PlainTransformer

from plurallm.config.learning import ModelConfig
from plurallm.learn.transformer import PreferenceTransformer, gather_questions, predict_episode

SMALL = ModelConfig(width=32, embedder_layers=4, layers=3, heads=4, feedforward=48)
GPO = ModelConfig(width=128, embedder_layers=4, layers=6, heads=4, feedforward=128)


def random_points(contexts, targets, width, dtype, seed=0):
    draws = torch.Generator().manual_seed(seed)
    context_x = torch.randn(contexts, width, generator=draws, dtype=dtype)
    share = torch.rand(contexts, generator=draws, dtype=dtype)
    target_x = torch.randn(targets, width, generator=draws, dtype=dtype)
    return context_x, share, target_x


def predict(model, context_x, share, target_x):
    target_token = model.target_tokens(model.embed(target_x))
    return predict_episode(model, model.embed(context_x), share, target_token)


def test_has_the_published_number_of_parameters():
    model = PreferenceTransformer(4096, GPO, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_188_354


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("contexts", "targets"), [(1, 1), (7, 40), (60, 5)])
def test_equals_the_plain_masked_transformer(dtype, tolerance, contexts, targets):
    model = PreferenceTransformer(24, GPO, seed=3).to(dtype)
    plain = PlainTransformer(24, GPO).to(dtype)
    plain.copy_weights(model)
    batch = random_points(contexts, targets, 24, dtype)
    torch.testing.assert_close(predict(model, *batch), plain(*batch), rtol=0, atol=tolerance)


def test_gradients_equal_those_of_the_plain_masked_transformer():
    model = PreferenceTransformer(24, SMALL, seed=3).double()
    plain = PlainTransformer(24, SMALL).double()
    plain.copy_weights(model)
    batch = random_points(12, 9, 24, torch.float64)
    predict(model, *batch).square().sum().backward()
    plain(*batch).square().sum().backward()
    fast = [model.first.weight.grad, model.blocks[0].key_value.weight.grad]
    slow_projection = plain.encoder.layers[0].self_attn.in_proj_weight.grad[SMALL.width :]
    slow = [plain.embedder[0].weight.grad, slow_projection]
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def in_one_pass(model, context_x, share, target_x):
    x = torch.cat([context_x, target_x])
    shares = torch.cat([share, torch.zeros(len(target_x), dtype=share.dtype)])
    return model(x[None], shares[None], len(context_x), len(context_x))[0]


@pytest.mark.parametrize(("contexts", "targets"), [(1, 1), (7, 40), (60, 5)])
def test_one_pass_equals_encoding_and_decoding_and_so_do_its_gradients(contexts, targets):
    model = PreferenceTransformer(24, SMALL, seed=3).double()
    batch = random_points(contexts, targets, 24, torch.float64)
    outputs, gradients = [], []
    for function in (in_one_pass, predict):
        outputs.append(function(model, *batch))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), [*model.parameters()]))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_stacked_sequences_of_different_lengths_equal_each_alone():
    model = PreferenceTransformer(24, SMALL, seed=3).double()
    short = random_points(4, 9, 24, torch.float64)
    long = random_points(7, 12, 24, torch.float64, seed=1)
    x, share = torch.zeros(2, 19, 24).double(), torch.zeros(2, 19).double()
    for row, (context_x, shares, target_x) in enumerate((short, long)):
        x[row, : len(context_x) + len(target_x)] = torch.cat([context_x, target_x])
        share[row, : len(shares)] = shares
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    output = model(x, share, 7, 4, mask)
    torch.testing.assert_close(output[0, :9], predict(model, *short), rtol=0, atol=1e-12)
    torch.testing.assert_close(output[1, 3:], predict(model, *long), rtol=0, atol=1e-12)


def test_order_of_context_and_targets_does_not_matter():
    model = PreferenceTransformer(24, SMALL, seed=1).double()
    context_x, share, target_x = random_points(15, 11, 24, torch.float64)
    shuffled_context, shuffled_target = torch.randperm(15), torch.randperm(11)
    straight = predict(model, context_x, share, target_x)
    shuffled = predict(
        model, context_x[shuffled_context], share[shuffled_context], target_x[shuffled_target]
    )
    torch.testing.assert_close(shuffled, straight[shuffled_target], rtol=0, atol=1e-12)


def test_a_target_does_not_see_other_targets():
    model = PreferenceTransformer(24, SMALL, seed=1).double()
    context_x, share, target_x = random_points(15, 11, 24, torch.float64)
    alone = predict(model, context_x, share, target_x[4:5])
    together = predict(model, context_x, share, target_x)[4:5]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


def test_the_answers_of_the_context_matter():
    model = PreferenceTransformer(24, SMALL, seed=1).double()
    context_x, share, target_x = random_points(15, 11, 24, torch.float64)
    other = predict(model, context_x, 1 - share, target_x)
    assert (predict(model, context_x, share, target_x) - other).abs().max() > 1e-4


def test_masked_context_points_change_nothing():
    model = PreferenceTransformer(24, SMALL, seed=1).double()
    context_x, share, target_x = random_points(15, 11, 24, torch.float64)
    padded_x = torch.cat([context_x, torch.full((4, 24), 7.0, dtype=torch.float64)])
    padded_share = torch.cat([share, torch.ones(4, dtype=torch.float64)])
    mask = (torch.arange(19) < 15)[None]
    memory = model.encode(model.embed(padded_x)[None], padded_share[None], mask)
    padded = model.decode(model.target_tokens(model.embed(target_x))[None], memory, mask)[0]
    torch.testing.assert_close(
        padded, predict(model, context_x, share, target_x), rtol=0, atol=1e-12
    )


def test_shares_sum_to_one_over_the_options_that_exist():
    output = torch.tensor([[0.0, 1.0], [1.0, 1.0], [5.0, 1.0]])
    point = torch.tensor([[0, 1, 2], [2, 0, 0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    shares = gather_questions(output, point, mask).shares_QO
    torch.testing.assert_close(shares.sum(-1), torch.ones(2))
    assert shares[1].tolist() == [1.0, 0.0, 0.0]


def test_initial_weights_depend_on_the_seed_only():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = PreferenceTransformer(24, SMALL, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = PreferenceTransformer(24, SMALL, seed=1).state_dict()
    other = PreferenceTransformer(24, SMALL, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["first.weight"], other["first.weight"])
