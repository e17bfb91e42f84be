"""Causal language models as embedders: small ones with random weights, made here.

Dimension letters: ``R`` rows of the table, ``T`` texts, ``L`` tokens, ``D`` embedding width.
"""

import json
import logging
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from plurallm.data.embedders.causal_lm import CausalLMEmbedding
from plurallm.data.embedding import batches
from plurallm.data.embedding.beginnings import mean_over_tokens, mean_states
from plurallm.data.embedding.models import causal_lm
from plurallm.data.embedding.pairs import question_pairs
from plurallm.data.embedding.prompts import prompt_text
from plurallm.data.embedding.table import embed_pairs, embedding_table
from plurallm.data.survey import Question

QUESTIONS = (
    Question("1", "Do you support a tax on fuel?", ("Strongly support", "Oppose", "Don't know")),
    Question("2", "How much do you trust doctors, hospitals and nurses?", ("A lot", "Not")),
    Question("3", "Good?", ("Yes", "No")),
)
CHAT = (
    "{% for message in messages %}<s>[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few merges; a <s> in front, as Llama's."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([question.text for question in QUESTIONS], trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng():
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(model: Path, **changes: Any) -> CausalLMEmbedding:
    settings: dict[str, Any] = {
        "list_options": True,
        "template": "alpaca",
        "dtype": "float32",
        "batch_tokens": 400,
        "device": None,
    }
    return CausalLMEmbedding("causal_lm", str(model), **(settings | changes))


def pairs(own: CausalLMEmbedding) -> list[tuple[str, str]]:
    return [pair for question in QUESTIONS for pair in question_pairs(question, own)]


def one_by_one(model: Path, texts: list[str], special: bool = True) -> np.ndarray:
    """Slow and obvious: a text at a time, no padding, the hidden states of the whole model."""
    whole = AutoModelForCausalLM.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=special)
        with torch.no_grad():
            states = whole(**inputs, output_hidden_states=True).hidden_states[-1][0]
        mean = sum(states) / len(states)
        rows.append((mean / mean.square().mean().sqrt()).numpy())
    return np.stack(rows)


ALPACA = """Below is an instruction that describes a task, paired with an input that provides \
further context. Write a response that appropriately completes the request.

### Instruction:
Answer the following question by picking ONE of the given options

### Input:
Good?

Options:
A. Yes
B. No

### Response:
B. No"""
LLAMA2 = """<s>[INST] <<SYS>>
Answer the following question by picking ONE of the given options
<</SYS>>
Good?

Options:
A. Yes
B. No [/INST] B. No"""
NONE = "Good?\n\nOptions:\nA. Yes\nB. No\nB. No"
CHATTED = """<s>[user] Answer the following question by picking ONE of the given options

Good?

Options:
A. Yes
B. No
[assistant] B. No"""


@pytest.mark.parametrize(
    ("template", "text"),
    [("alpaca", ALPACA), ("llama2", LLAMA2), ("none", NONE), ("chat", CHATTED)],
)
def test_prompts_by_hand(
    llama: Path, tokenizer: PreTrainedTokenizerFast, template: str, text: str
) -> None:
    own = config(llama, template=template)
    tokenizer.chat_template = CHAT
    assert prompt_text(question_pairs(QUESTIONS[2], own)[1], template, tokenizer) == text


def test_options_can_stand_alone(llama: Path) -> None:
    own = config(llama, list_options=False)
    assert question_pairs(QUESTIONS[2], own) == [("Good?", "Yes"), ("Good?", "No")]


def test_more_options_than_letters_are_refused_by_question(llama: Path) -> None:
    many = Question("much", "Which?", tuple(map(str, range(27))))
    with pytest.raises(ValueError, match=r"'much' has 27 options.*list_options=false"):
        question_pairs(many, config(llama))
    assert question_pairs(many, config(llama, list_options=False))[26] == ("Which?", "26")


@pytest.mark.parametrize("template", ["none", "alpaca", "llama2"])
def test_batches_equal_one_text_after_the_other(
    llama: Path, tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    own = config(llama, template=template)
    texts = [prompt_text(pair, template, tokenizer) for pair in pairs(own)]
    table_RD = embed_pairs(pairs(own), own, "cpu")
    assert table_RD.dtype == np.float32
    assert table_RD.shape == (7, 24)
    assert table_RD == pytest.approx(one_by_one(llama, texts), abs=1e-5)


def test_a_shared_beginning_is_computed_once(llama: Path) -> None:
    own = config(llama, batch_tokens=10_000)
    model, tokenizer = causal_lm(llama, "cpu", "float32")
    ids = [tokenizer(prompt_text(pair, "alpaca", tokenizer))["input_ids"] for pair in pairs(own)]
    read: list[int] = []
    hook = model.embed_tokens.register_forward_hook(
        lambda _layer, inputs, _out: read.append(inputs[0].numel())
    )
    try:
        mean_TD = mean_states(model, ids, "cpu")
        alone_TD = torch.cat([mean_states(model, [text], "cpu") for text in ids])
    finally:
        hook.remove()
    assert mean_TD.detach().numpy() == pytest.approx(alone_TD.detach().numpy(), abs=1e-5)
    assert sum(read[:2]) < sum(map(len, ids)) * 0.6


@pytest.mark.parametrize("ids", [[[5], [5], [7]], [[5, 6, 7], [9], [5, 6, 8]], [[5, 6]] * 3])
def test_short_and_equal_texts_are_as_if_alone(llama: Path, ids: list[list[int]]) -> None:
    model, _ = causal_lm(llama, "cpu", "float32")
    with torch.inference_mode():
        alone_TD = torch.cat([mean_states(model, [text], "cpu") for text in ids])
        torch.testing.assert_close(mean_states(model, ids, "cpu"), alone_TD, rtol=0, atol=1e-5)


def test_learned_positions_do_not_count_padding(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 300}
    with torch.random.fork_rng():
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    own = config(tmp_path, template="none", batch_tokens=10_000)
    texts = [prompt_text(pair, "none", tokenizer) for pair in pairs(own)]
    assert embed_pairs(pairs(own), own, "cpu") == pytest.approx(
        one_by_one(tmp_path, texts), abs=1e-5
    )


def test_the_chat_template_writes_its_special_tokens_itself(
    tmp_path: Path, llama: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path)
    own = config(tmp_path, template="chat")
    texts = [prompt_text(pair, "chat", tokenizer) for pair in pairs(own)]
    assert embed_pairs(pairs(own), own, "cpu") == pytest.approx(
        one_by_one(tmp_path, texts, special=False), abs=1e-5
    )


def test_a_chat_template_cannot_tell_the_date(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- endif %}Today is {{ date_string }}. {{ messages[0].content }}: "
    )
    text = prompt_text(("Good?", "Yes"), "chat", tokenizer)
    assert text.startswith("Today is 01 Jan 2024. Answer")


def test_a_tokenizer_without_a_chat_template_is_refused(llama: Path) -> None:
    own = config(llama, template="chat")
    with pytest.raises(ValueError, match=r"no chat template; give embedding\.template="):
        embed_pairs(pairs(own), own, "cpu")


def test_padding_counts_for_nothing_whatever_it_holds() -> None:
    state_TLD = torch.tensor(
        [[[1.0, 2.0], [3.0, 6.0], [float("nan"), 9.0]], [[1.0, 1.0], [2.0, 2.0], [6.0, 0.0]]]
    )
    mask_TL = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert mean_over_tokens(state_TLD, mask_TL).tolist() == [[2, 4], [3, 1]]
    assert mean_over_tokens(state_TLD.bfloat16(), mask_TL).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_and_not_the_same(llama: Path, dtype: str) -> None:
    own = config(llama)
    table_RD = embed_pairs(pairs(own), own, "cpu")
    half_RD = embed_pairs(pairs(own), config(llama, dtype=dtype), "cpu")
    assert half_RD.dtype == np.float32
    assert not np.array_equal(half_RD, table_RD)
    assert half_RD == pytest.approx(table_RD, abs=0.1)


def test_the_order_of_texts_changes_no_bit_and_batches_change_rounding(llama: Path) -> None:
    own = config(llama)
    table_RD = embed_pairs(pairs(own), own, "cpu")
    assert np.array_equal(embed_pairs(pairs(own)[::-1], own, "cpu")[::-1], table_RD)
    for batch_tokens in (1, 100_000):
        other_RD = embed_pairs(pairs(own), config(llama, batch_tokens=batch_tokens), "cpu")
        assert other_RD == pytest.approx(table_RD, abs=1e-5)


def test_a_text_that_is_too_long_loses_its_beginning(
    llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = config(llama, list_options=False)
    long = "What do you think of this, that and the other? " * 60
    table_RD = embed_pairs([(long, "Yes"), (long, "No"), ("Good?", "No")], own, "cpu")
    assert not np.allclose(table_RD[0], table_RD[1], atol=1e-4)
    assert "2 of 3 texts are longer than the 512 tokens" in caplog.text


def test_an_interrupted_table_goes_on_where_it_stopped(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "plurallm")
    own = config(llama, batch_tokens=1)  # a text a batch
    whole = embedding_table(pairs(own), own, tmp_path / "whole", "cpu")
    calls: list[int] = []

    def stop_after(count: int) -> Callable[..., torch.Tensor]:
        def counted(*inputs: Any) -> torch.Tensor:
            if len(calls) == count:
                raise KeyboardInterrupt
            calls.append(1)
            return mean_states(*inputs)

        return counted

    where = "plurallm.data.embedding.beginnings.mean_states"
    cache = tmp_path / "cache"
    for count in (3, 5):  # interrupted twice, the second time after two more batches
        monkeypatch.setattr(where, stop_after(count))
        with pytest.raises(KeyboardInterrupt):
            embedding_table(pairs(own), own, cache, "cpu")
        assert not list(cache.rglob("*.npy"))
    monkeypatch.setattr(where, stop_after(100))
    assert torch.equal(embedding_table(pairs(own), own, cache, "cpu"), whole)
    assert len(calls) == 8  # seven texts, and the probe once
    assert "3 of 7 texts were embedded before" in caplog.text
    assert "5 of 7 texts were embedded before" in caplog.text
    assert not list(cache.rglob("*.parts"))


def test_parts_are_kept_while_it_runs_and_a_damaged_one_is_made_again(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"text number {number}" for number in range(6)]
    encoded: list[str] = []

    def encode(batch: list[str]) -> np.ndarray:
        encoded.extend(batch)
        return np.array([[len(text), int(text[-1])] for text in batch], dtype=np.float32)

    def embed() -> np.ndarray:
        encoded.clear()
        return batches.embed_texts(texts, lambda texts: [3] * len(texts), encode, 6, tmp_path)

    monkeypatch.setattr(batches, "_INTERVAL", -1)
    expected_RD = [[13, number] for number in range(6)]
    assert embed().tolist() == expected_RD
    assert encoded == texts
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"0000000{start}.safetensors" for start in (0, 2, 4)]
    assert embed().tolist() == expected_RD
    assert encoded == []
    for damage in (lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:20]):
        files[1].write_bytes(damage(files[1].read_bytes()))
        caplog.clear()
        assert embed().tolist() == expected_RD
        assert encoded == texts[2:]
        assert f"{files[1]} is damaged" in caplog.text
    # Parts of other texts are no parts.
    texts[0] = "another one 0"
    assert embed().tolist() == expected_RD


def test_a_model_that_is_no_causal_language_model_is_refused(tmp_path: Path, llama: Path) -> None:
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    described = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks weights: model\.layers\.2\.") as refusal:
        embed_pairs([("Good?", "Yes")], config(tmp_path), "cpu")
    assert str(tmp_path) in str(refusal.value)


def test_a_decoder_without_its_head_gives_the_same_vectors(
    tmp_path: Path, llama: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    whole = AutoModelForCausalLM.from_pretrained(llama)
    assert not whole.config.tie_word_embeddings
    whole.base_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asked = pairs(config(llama))
    assert np.array_equal(embed_pairs(asked, config(tmp_path)), embed_pairs(asked, config(llama)))


@pytest.mark.parametrize(
    "how",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "awq", "bits": 4},
    ],
)
def test_a_quantised_model_without_its_package_is_one_line(
    tmp_path: Path, llama: Path, how: dict[str, Any]
) -> None:
    if any(find_spec(name) for name in ("optimum", "bitsandbytes", "gptqmodel")):
        pytest.skip("a package that reads quantised models is installed")
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    described = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"quantization_config": how}))
    with pytest.raises(ValueError, match=rf"quantised with {how['quant_method']}.*requires \S+"):
        embed_pairs([("Good?", "Yes")], config(tmp_path), "cpu")


def test_weights_as_pickle_are_refused(tmp_path: Path, llama: Path) -> None:
    for file in llama.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    state = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no causal language model with safetensors weights"):
        embed_pairs([("Good?", "Yes")], config(tmp_path), "cpu")


def test_a_vector_that_is_not_finite_is_refused(
    tmp_path: Path, llama: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("inf"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no finite vector for \('Good\?', 'Yes'\) \(1 of 1"):
        embed_pairs([("Good?", "Yes")], config(tmp_path), "cpu")
