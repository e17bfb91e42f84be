"""Sentence-transformers models as embedders, with the real weights of all-MiniLM-L6-v2.

Dimension letters: ``R`` rows of the table, ``D`` embedding width.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from plurallm.data.embedders.sentences import MiniLMEmbedding, SentenceTransformerEmbedding
from plurallm.data.embedding.models import minilm_folder
from plurallm.data.embedding.table import embed_pairs, embedding_table

MINILM = MiniLMEmbedding("minilm", "joint", 64, None)
PAIRS = [
    ("Do you support or oppose a tax on fuel?", "Strongly support"),
    ("Do you support or oppose a tax on fuel?", "Strongly oppose"),
    ("Are you for or against higher petrol duties?", "Strongly for"),
    ("How much do you trust doctors and hospitals?", "A great deal"),
    ("How often do you pray?", "No"),
]


def cosine(table_RD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit_RD = table_RD / np.linalg.norm(table_RD, axis=1, keepdims=True)
    return unit_RD @ unit_RD.T


def test_minilm_gives_rows_of_mean_square_1_that_know_what_texts_mean() -> None:
    table_RD = embed_pairs(PAIRS, MINILM, "cpu")
    assert table_RD.dtype == np.float32
    assert table_RD.shape == (5, 384)
    assert np.square(table_RD).mean(1) == pytest.approx(1, abs=1e-5)
    likeness_RR = cosine(table_RD)
    # The same in other words, with no word in common but "or".
    assert likeness_RR[0, 2] > likeness_RR[0, 3] + 0.3


def test_minilm_is_the_published_model() -> None:
    # The model card's example: cosine of these two is 0.67 or so for any correct pooling.
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = [f"{question} {option}" for question, option in PAIRS]
    own_RD = model.encode(texts, normalize_embeddings=True) * np.sqrt(384)
    assert embed_pairs(PAIRS, MINILM, "cpu") == pytest.approx(own_RD, abs=1e-4)


def test_separate_parts_stand_side_by_side() -> None:
    separate = MiniLMEmbedding("minilm", "separate", 64, None)
    table_RD = embed_pairs(PAIRS, separate, "cpu")
    assert table_RD.shape == (5, 768)
    assert np.array_equal(table_RD[0, :384], table_RD[1, :384])  # one question
    assert not np.array_equal(table_RD[0, 384:], table_RD[1, 384:])
    for half in (table_RD[:, :384], table_RD[:, 384:]):
        assert np.square(half).mean(1) == pytest.approx(1, abs=1e-5)
    swapped_RD = embed_pairs([(option, question) for question, option in PAIRS], separate, "cpu")
    assert swapped_RD[:, :384] == pytest.approx(table_RD[:, 384:], abs=1e-5)


@pytest.mark.parametrize("parts", ["joint", "separate"])
def test_what_else_is_embedded_changes_a_row_by_rounding_alone(parts: str) -> None:
    table_RD = embed_pairs(PAIRS, MiniLMEmbedding("minilm", parts, 20, None), "cpu")
    other = MiniLMEmbedding("minilm", parts, 64, None)
    for row, pair in enumerate(PAIRS):
        assert embed_pairs([pair], other, "cpu")[0] == pytest.approx(table_RD[row], abs=2e-5)
    # The same texts in another order make the same batches: the same bits.
    backwards_RD = embed_pairs(PAIRS[::-1], MiniLMEmbedding("minilm", parts, 20, None), "cpu")
    assert np.array_equal(backwards_RD[::-1], table_RD)


def test_a_local_folder_is_a_model_and_the_cache_knows_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(minilm_folder(), folder)
    config = SentenceTransformerEmbedding("sentence_transformer", "joint", 64, None, str(folder))
    table_RD = embedding_table(PAIRS, config, tmp_path, "cpu")
    assert np.array_equal(table_RD.numpy(), embed_pairs(PAIRS, MINILM, "cpu"))
    assert torch.equal(embedding_table(PAIRS, config, tmp_path, "cpu"), table_RD)
    tables = tmp_path / "embeddings"
    assert len(list(tables.glob("*.npy"))) == 1
    (folder / "README.md").write_text("the same model, told of otherwise")
    embedding_table(PAIRS, config, tmp_path, "cpu")
    assert len(list(tables.glob("*.npy"))) == 1
    moved = folder.rename(tmp_path / "elsewhere")
    config = SentenceTransformerEmbedding("sentence_transformer", "joint", 64, None, str(moved))
    embedding_table(PAIRS, config, tmp_path, "cpu")
    assert len(list(tables.glob("*.npy"))) == 1
    (moved / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 9, "do_lower_case": false}'
    )
    embedding_table(PAIRS, config, tmp_path, "cpu")
    assert len(list(tables.glob("*.npy"))) == 2


def test_the_end_of_a_text_that_is_too_long_is_read() -> None:
    long = "What do you think of this, that and the other? " * 60
    table_RD = embed_pairs([(long, "Strongly support"), (long, "Not at all")], MINILM, "cpu")
    assert cosine(table_RD)[0, 1] < 0.999


def test_without_the_hub_the_error_names_the_model_and_what_to_do(tmp_path: Path) -> None:
    config = SentenceTransformerEmbedding(
        "sentence_transformer", "joint", 64, None, "nobody/no-such-model"
    )
    with pytest.raises(ValueError, match=r"nobody/no-such-model.*embedding\.model=/path/to/model"):
        embedding_table(PAIRS, config, tmp_path, "cpu")


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    config = SentenceTransformerEmbedding("sentence_transformer", "joint", 8, None, str(tmp_path))
    with pytest.raises(ValueError, match=r"no sentence-transformers model") as refusal:
        embed_pairs(PAIRS, config, "cpu")
    assert str(tmp_path) in str(refusal.value)


def static_model(folder: Path) -> Path:
    """Write a static model: a table of token vectors, without a limit to a text's length."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    words = ["[PAD]", "[UNK]", *dict.fromkeys(" ".join(map(" ".join, PAIRS)).split())]
    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.save(str(folder / "tokenizer.json"))
    table = torch.randn(len(words), 16, generator=torch.Generator().manual_seed(0))
    save_file({"embedding.weight": table}, folder / "model.safetensors")
    module = {"idx": 0, "name": "0", "path": ""}
    module |= {"type": "sentence_transformers.models.StaticEmbedding"}
    (folder / "modules.json").write_text(json.dumps([module]))
    return folder


def test_a_static_model_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    folder = static_model(tmp_path / "static")
    own = SentenceTransformerEmbedding("sentence_transformer", "joint", 64, None, str(folder))
    table_RD = embedding_table(PAIRS, own, tmp_path, "cpu")
    table = load_file(folder / "model.safetensors")["embedding.weight"].numpy()
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    for row, pair in zip(table_RD.numpy(), PAIRS, strict=True):
        mean_D = table[[words[word] for word in " ".join(pair).split()]].mean(0)
        assert row == pytest.approx(mean_D / np.sqrt(np.square(mean_D).mean()), abs=1e-5)
    long = embed_pairs([("do " * 9000, "you")], own, "cpu")
    assert np.isfinite(long).all()


def test_a_module_whose_weights_are_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(static_model(tmp_path / "static"), tmp_path / "dense"))
    (folder / "2_Dense").mkdir()
    torch.save({"linear.weight": torch.eye(16)}, folder / "2_Dense" / "pytorch_model.bin")
    own = SentenceTransformerEmbedding("sentence_transformer", "joint", 64, None, str(folder))
    with pytest.raises(ValueError, match=r"2_Dense/pytorch_model\.bin: weights as a pickle"):
        embed_pairs(PAIRS, own, "cpu")
