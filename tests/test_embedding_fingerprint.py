"""The embedding cache knows a model by its content, whatever its files are called and dated.

Dimension letters: ``R`` rows of the table, ``D`` embedding width.
"""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plurallm.data.embedders.lookup import TableEmbedding, write_vectors
from plurallm.data.embedders.sentences import SentenceTransformerEmbedding
from plurallm.data.embedding import fingerprint as fingerprints
from plurallm.data.embedding.fingerprint import embedder_fingerprint, model_files
from plurallm.data.embedding.models import release_models
from plurallm.data.embedding.table import embed_pairs, embedding_table, table_path

PAIRS = [("should the town spend on roads", "yes"), ("should the town spend on parks", "no")]


def embedder(folder: Path) -> SentenceTransformerEmbedding:
    return SentenceTransformerEmbedding("sentence_transformer", "joint", 64, None, str(folder))


def date_back(folder: Path) -> None:
    """One time for all files, as in an image's layer or an archive."""
    for file in (folder, *folder.rglob("*")):
        os.utime(file, (1, 1))


MODULES = """[
  {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
  {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
]"""


def make_model(folder: Path, seed: int) -> Path:
    """Write a sentence-transformers model of one architecture with weights of a seed."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (folder / "1_Pooling").mkdir(parents=True)
    words = dict.fromkeys(word for pair in PAIRS for text in pair for word in text.split())
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    bert = BertModel(
        BertConfig(
            vocab_size=64,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
        )
    )
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in bert.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draws))
    bert.save_pretrained(folder)
    (folder / "modules.json").write_text(MODULES)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    pooling = '{"word_embedding_dimension": 16, "pooling_mode_mean_tokens": true}'
    (folder / "1_Pooling" / "config.json").write_text(pooling)
    date_back(folder)
    return folder


def test_two_models_of_equal_names_sizes_and_times_have_a_table_each(tmp_path: Path) -> None:
    base, tuned = (make_model(tmp_path / name, seed) for seed, name in enumerate(("base", "tuned")))
    sizes = [
        [(name, file.stat().st_size, file.stat().st_mtime) for name, file in model_files(folder)]
        for folder in (base, tuned)
    ]
    assert sizes[0] == sizes[1]
    tables = [embedding_table(PAIRS, embedder(folder), tmp_path) for folder in (base, tuned)]
    assert not torch.equal(*tables)
    release_models()
    assert np.array_equal(tables[1].numpy(), embed_pairs(PAIRS, embedder(tuned)))
    # The same content elsewhere is the same model.
    copy = Path(shutil.copytree(tuned, tmp_path / "copy"))
    assert table_path(PAIRS, embedder(copy), tmp_path) == table_path(
        PAIRS, embedder(tuned), tmp_path
    )


def test_weights_in_a_linked_folder_count_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / "store" / name / "weights").mkdir(parents=True)
        (tmp_path / "store" / name / "weights" / "model.safetensors").write_text(name.ljust(9))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "circle").symlink_to(folder)
    found = []
    for name in ("one", "other"):
        (folder / "0").unlink(missing_ok=True)
        (folder / "0").symlink_to(tmp_path / "store" / name / "weights")
        date_back(folder)
        date_back(tmp_path / "store")
        assert [name for name, _ in model_files(folder)] == ["0/model.safetensors", "config.json"]
        found.append(embedder_fingerprint(embedder(folder), tmp_path))
    assert found[0] != found[1]


def test_a_folder_of_very_many_files_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "MOST_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.json").write_text("{}")
    with pytest.raises(ValueError, match="more than 3 files"):
        embedder_fingerprint(embedder(tmp_path), tmp_path)


def test_a_large_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(fingerprints, "LARGE", 8)
    monkeypatch.setattr(fingerprints, "_SETTLED_SECONDS", -1.0)
    (folder / "model.safetensors").write_bytes(b"0123456789")
    (folder / "config.json").write_bytes(b"{}")
    hashed = []

    def count(content: object, name: str) -> object:
        hashed.append(getattr(content, "name", None))
        return real(content, name)  # type: ignore[arg-type]

    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", count)
    first = embedder_fingerprint(embedder(folder), cache)
    assert len(hashed) == 2
    assert embedder_fingerprint(embedder(folder), cache) == first
    assert [Path(str(name)).name for name in hashed[2:]] == ["config.json"]
    (folder / "model.safetensors").write_bytes(b"9876543210")
    assert embedder_fingerprint(embedder(folder), cache) != first


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.dictionaries(
        st.sampled_from(["config.json", "a/model.safetensors", "a/b/vocab.txt", "spm.model"]),
        st.binary(min_size=1, max_size=6),
        min_size=1,
    ),
    data=st.data(),
)
def test_content_alone_tells_models_apart(
    before: dict[str, bytes], data: st.DataObject, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "model", ignore_errors=True)

    def write(files: dict[str, bytes]) -> str:
        for name, content in files.items():
            (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "model" / name).write_bytes(content)
        date_back(tmp_path / "model")
        return table_path(PAIRS, embedder(tmp_path / "model"), tmp_path / "cache").name

    known = write(before)
    # Rewritten in place: as long as before, at the same time.
    after = {
        name: data.draw(st.binary(min_size=len(content), max_size=len(content)))
        for name, content in before.items()
    }
    assert (write(after) == known) == (after == before)
    shutil.rmtree(tmp_path / "model")
    assert write(before) == known


def test_a_table_of_vectors_rewritten_in_place_is_another_embedder(tmp_path: Path) -> None:
    file = tmp_path / "vectors.npz"
    config = TableEmbedding("table", str(file), list_options=False)
    found = []
    for value in (1.0, 2.0):
        write_vectors(file, PAIRS, np.full((2, 4), [value, 1, 1, 1], dtype=np.float32))
        os.utime(file, (1, 1))
        found.append(embedding_table(PAIRS, config, tmp_path))
    assert not torch.equal(*found)
