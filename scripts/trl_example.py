"""Train a tiny policy with TRL's GRPO against a reward bundle, and draw how its reward rises.

The policy is a two-layer Llama with random weights and a vocabulary of the prompts' words, so that
this runs on a CPU without any download: a demonstration of the interface, not of a language model.
It has to name the option that most of a group choose; its reward is the predicted share.

    plurallm train experiment=quick output_dir=run
    plurallm export run bundle 'release_context=[Avaria,Belena]'
    python scripts/trl_example.py bundle
"""

import argparse
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

from plurallm.reward import PreferenceRewardModel, Query, Scorer
from plurallm.reward.trl import trl_reward

LETTERS = "ABCDEFGH"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8f7f00", "#56b4e9")


def toy_rows(model: PreferenceRewardModel, questions: int) -> list[dict[str, Any]]:
    """Questions that the groups' own contexts ask, each put to every group."""
    asked = {
        answer.question: list(answer.options)
        for context in model.contexts.values()
        for answer in context
        if len(answer.options) <= len(LETTERS)
    }
    return [
        {"prompt": f"group {group} question {number} answer", "group": group}
        | {"question": question, "options": options}
        for number, (question, options) in enumerate([*asked.items()][:questions])
        for group in model.groups
    ]


def tiny_policy(prompts: Sequence[str]) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make a policy with random weights, and a tokenizer of the prompts' words and the letters."""
    words = dict.fromkeys(
        word for prompt in prompts for word in re.findall(r"\w+|[^\w\s]+", prompt)
    )
    vocabulary = {
        word: n for n, word in enumerate(dict.fromkeys(("<pad>", "<eos>", *LETTERS, *words)))
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(1).get_state())
        return LlamaForCausalLM(config), fast


def train(bundle: Path, steps: int, questions: int, folder: Path) -> list[dict[str, float]]:
    """Train; the log has ``reward/share/GROUP`` for every group and step."""
    model = PreferenceRewardModel.from_pretrained(bundle)
    rows = toy_rows(model, questions)
    policy, tokenizer = tiny_policy([row["prompt"] for row in rows])
    trainer = GRPOTrainer(
        policy,
        reward_funcs=trl_reward(Scorer(model, "share")),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        args=GRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            max_steps=steps,
            per_device_train_batch_size=64,
            num_generations=8,
            max_completion_length=1,
            learning_rate=3e-3,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=1,
        ),
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "reward" in line]


def limits(bundle: Path, questions: int) -> tuple[float, float]:
    """Mean reward of a uniform choice among the options, and of the best one."""
    model = PreferenceRewardModel.from_pretrained(bundle)
    rows = toy_rows(model, questions)
    forecasts = model.predict_batch(
        [Query(row["question"], tuple(row["options"]), row["group"]) for row in rows]
    )
    chance = fmean(1 / len(forecast.shares) for forecast in forecasts)
    return chance, fmean(max(forecast.shares) for forecast in forecasts)


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and those before it."""
    return [fmean(values[max(0, n + 1 - width) : n + 1]) for n in range(len(values))]


def draw(curves: Mapping[str, Sequence[float]], lines: Mapping[str, float]) -> str:
    """Draw curves over steps, and horizontal lines, as SVG."""
    width, height, left, top, bottom = 720, 360, 56, 16, 44
    steps = max(map(len, curves.values()))
    highest = 1.1 * max(*lines.values(), *(max(curve) for curve in curves.values()))

    def x(step: float) -> float:
        return left + (width - left - 150) * step / max(1, steps - 1)

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * value / highest

    def text(at_x: float, at_y: float, words: str, more: str = "") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" {more}>{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="sans-serif" font-size="13" fill="#333">',
        "<title>Reward of a tiny policy during GRPO, by group</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for tick in [n / 10 for n in range(int(highest * 10) + 1)]:
        parts.append(
            f'<line x1="{left}" x2="{x(steps - 1):.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            'stroke="#ddd"/>' + text(left - 8, y(tick) + 4, f"{tick:.1f}", 'text-anchor="end"')
        )
    for step in range(0, steps, max(1, steps // 5)):
        parts.append(text(x(step), height - bottom + 18, str(step), 'text-anchor="middle"'))
    parts.append(text((left + x(steps - 1)) / 2, height - 8, "step", 'text-anchor="middle"'))
    for name, value in lines.items():
        parts.append(
            f'<line x1="{left}" x2="{x(steps - 1):.1f}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            'stroke="#777" stroke-dasharray="5 4"/>' + text(x(steps - 1) + 8, y(value) + 4, name)
        )
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in enumerate(curve))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(text(left + 12, top + 12 + 17 * number, name, f'fill="{colour}"'))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("bundle", type=Path, help="folder of a reward bundle with at least one released context")
    add("--steps", type=int, default=200, help="optimiser steps (default 200)")
    add("--questions", type=int, default=12, help="questions of the toy task (default 12)")
    add("--svg", type=Path, metavar="FILE", help="draw the rewards there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = train(options.bundle, options.steps, options.questions, Path(folder))
    chance, best = limits(options.bundle, options.questions)
    logged = [name for name in log[-1] if name.startswith("reward/share/")]
    curves = {
        name.removeprefix("reward/share/"): smooth([line.get(name, 0.0) for line in log], 10)
        for name in logged
    }
    print(f"chance among the options {chance:.3f}, best option {best:.3f}")
    parsed = smooth([line["parsed/share"] for line in log], 10)
    for group, curve in [*curves.items(), ("parsed", parsed)]:
        print(f"{group}: {curve[0]:.3f} in the first step, {curve[-1]:.3f} over the last ten")
    if options.svg:
        options.svg.write_text(draw(curves, {"best option": best, "chance": chance}), "utf-8")


if __name__ == "__main__":
    main()
