"""Seeded draws: functions of what they are for, and of nothing else."""

import pytest
import torch

from plurallm.config.randomness import digest_fraction, generator


def numbers(*identity: object, count: int = 4) -> list[float]:
    return torch.rand(count, generator=generator(*identity)).tolist()


def test_one_identity_gives_one_stream() -> None:
    assert numbers(1, "episodes", "Nigeria", 3) == numbers(1, "episodes", "Nigeria", 3)


@pytest.mark.parametrize(
    "other",
    [
        (2, "episodes", "Nigeria", 3),
        (1, "evaluation", "Nigeria", 3),
        (1, "episodes", "Egypt", 3),
        (1, "episodes", "Nigeria", 4),
        (1, "episodesNigeria", "", 3),
        (1, "episodes", "Nigeria3", 0),
    ],
)
def test_every_part_of_the_identity_counts(other: tuple[object, ...]) -> None:
    assert numbers(*other) != numbers(1, "episodes", "Nigeria", 3)


def test_group_and_round_default_to_none() -> None:
    assert numbers(1, "model") == numbers(1, "model", "", 0)


def test_the_global_state_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    drawn = numbers(1, "model")
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.rand(5)
        assert numbers(1, "model") == drawn


def test_draws_of_one_generator_do_not_move_another() -> None:
    one, other = generator(1, "a"), generator(1, "b")
    torch.rand(100, generator=one)
    assert torch.rand(4, generator=other).tolist() == numbers(1, "b")


def test_generators_are_on_the_cpu() -> None:
    assert generator(1, "model").device == torch.device("cpu")


def test_known_values_stay() -> None:
    # Splits of surveys and the resuming of runs rest on these: a change breaks both.
    assert digest_fraction("unseen", 1, "q1") == 0.11848734175227708
    assert generator(1, "episodes", "Nigeria", 3).initial_seed() == 4961785994457859331


def test_fractions_are_uniform_and_differ() -> None:
    fractions = torch.tensor([digest_fraction("x", n) for n in range(20_000)], dtype=torch.float64)
    assert fractions.min() >= 0
    assert fractions.max() < 1
    assert len(fractions.unique()) == len(fractions)
    shares = fractions.histc(10, 0, 1) / len(fractions)
    assert (shares - 0.1).abs().max() < 0.01  # five standard deviations
    # Neighbours in what is identified are no neighbours in what is drawn.
    pairs = torch.stack([fractions[:-1], fractions[1:]])
    assert abs(torch.corrcoef(pairs)[0, 1]) < 0.04


def test_parts_do_not_run_into_each_other() -> None:
    assert digest_fraction("ab", "c") != digest_fraction("a", "bc")
    assert digest_fraction("1", 23) != digest_fraction(12, "3")
