"""Convert embeddings that GPO's code wrote (``embeddings_alpaca_globalqa.pkl``) for our use.

    python scripts/convert_embeddings.py embeddings_alpaca_globalqa.pkl globalqa.npz
    plurallm train embedding=table embedding.path=globalqa.npz ...

A pickle is a program, and loading one from the internet runs it. This script runs none of it: what
a pandas table of texts and lists of numbers consists of is taken down as inert records, whatever
else the file asks for is refused by name, and neither pandas nor pyarrow is used. Known are the
tables of pandas 1.3 and later.

The file holds a row for each answer: ``prompt_answer``, the whole text that was embedded, in GPO's
Alpaca or Llama-2 prompt, and ``embedding``, a list of numbers. The text is taken apart into the
question, which ends in its options, and the answer behind its letter: this pair is the key that
``embedding=table`` looks up. A text that stands in several rows keeps its first vector.
"""

import argparse
import math
import pickle
import re
import string
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from plurallm.data.embedders.lookup import TableEmbedding, write_vectors
from plurallm.data.embedding.pairs import Pair, question_pairs
from plurallm.data.survey import Question

# What pandas writes for a table, by version of pandas and numpy.
KNOWN = {
    *("pandas.core.frame.DataFrame", "pandas.DataFrame"),
    *("pandas.core.indexes.base.Index", "pandas.Index", "pandas.core.indexes.base._new_Index"),
    *("pandas.core.indexes.range.RangeIndex", "pandas.RangeIndex"),
    "pandas.core.indexes.numeric.Int64Index",
    *("pandas.core.internals.managers.BlockManager", "pandas._libs.internals._unpickle_block"),
    *("pandas.arrays.ArrowStringArray", "pandas.StringDtype"),
    *("pyarrow.lib._restore_array", "pyarrow.lib.py_buffer", "pyarrow.lib.type_for_alias"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    *("numpy.ndarray", "numpy.dtype", "builtins.slice"),
}
LISTED = TableEmbedding("table", "", list_options=True)
PROMPTS = (
    re.compile(
        r"Below is an instruction.*?### Input:\n(?P<question>.*)\n\n### Response:\n(?P<answer>.*)",
        re.DOTALL,
    ),
    re.compile(r"<s>\[INST\].*?<</SYS>>\n(?P<question>.*) \[/INST\] (?P<answer>.*)", re.DOTALL),
)


class Record:
    """Something that the pickle wanted to make: its name, arguments and state, and no life."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *arguments: Any) -> "Record":
        """Take the arguments down."""
        record = super().__new__(cls)
        record.arguments = arguments
        return record

    def __setstate__(self, state: Any) -> None:
        """Take the state down."""
        self.state = state


class Reader(pickle.Unpickler):
    """Makes records of what a table consists of, and refuses everything else."""

    def find_class(self, module: str, name: str) -> type[Record]:
        """Give the record that stands for a name."""
        full = f"{module}.{name}"
        if full not in KNOWN:
            raise ValueError(f"it asks for {full}, which no table needs: refused, nothing was run")
        return type("Record", (Record,), {"name": full.rpartition(".")[2]})


def read_table(path: Path) -> dict[str, list[Any]]:
    """Read the columns of texts and lists of a pickled pandas table.

    Parameters
    ----------
    path : Path
        The pickle.

    Returns
    -------
    dict of str to list
        Columns of texts or objects by their name; columns of numbers are left out.

    Raises
    ------
    ValueError
        When the file asks for anything that no table needs, or is no such table.
    """
    try:
        with path.open("rb") as file:
            table = Reader(file).load()
        manager = table.state["_mgr"]
        blocks, (columns, _) = manager.arguments
        names = _values(columns.arguments[1]["data"])[0]
        found: dict[int, list[Any]] = {}
        for block in blocks:
            values, places, _ = block.arguments
            if values.name in ("_reconstruct", "ArrowStringArray"):
                found |= dict(zip(_places(places), _values(values), strict=True))
        return {names[place]: column for place, column in found.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ValueError(f"{path} asks for more memory than there is: no such table") from error
    except (AttributeError, KeyError, TypeError, IndexError, EOFError, pickle.UnpicklingError) as e:
        raise ValueError(f"{path} is no table that pandas 1.3 or later pickled: {e!r}") from e


def split_prompt(prompt_answer: str) -> Pair:
    """Take GPO's text apart: the question, which ends in its options, and the answer's letter.

    Parameters
    ----------
    prompt_answer : str
        What GPO embedded.

    Returns
    -------
    (str, str)
        The pair that ``question_pairs`` makes of the same question, with texts as our readers
        give them: without white space around them, and 1 for 1.0.

    Raises
    ------
    ValueError
        When it is not in GPO's Alpaca or Llama-2 prompt.
    """
    matches = [match for prompt in PROMPTS if (match := prompt.fullmatch(prompt_answer))]
    if matches:
        question, found, listed = matches[0]["question"].rpartition("\n\nOptions:\n")
        options = re.split(r"(?:\A|\n)([A-Z])\. ", listed)
        letters, texts = options[1::2], [_plain(text) for text in options[2::2]]
        letter, _, answer = matches[0]["answer"].partition(". ")
        if found and letters == list(string.ascii_uppercase[: len(letters)]) and letter in letters:
            place = letters.index(letter)
            if texts[place] == _plain(answer):
                return question_pairs(Question("", question.strip(), tuple(texts)), LISTED)[place]
    raise ValueError(f"not in GPO's Alpaca or Llama-2 prompt: {prompt_answer[:200]!r}")


def convert(source: Path, target: Path) -> tuple[int, int, int]:
    """Convert a pickle; returns its rows, the distinct texts written, and their width.

    Raises
    ------
    ValueError
        Naming the file and the row of what does not fit.
    """
    table = read_table(source)
    if not {"prompt_answer", "embedding"} <= table.keys():
        raise ValueError(f"{source} has no columns prompt_answer and embedding: {sorted(table)}")
    vectors: dict[Pair, list[float]] = {}
    for row, (text, vector) in enumerate(
        zip(table["prompt_answer"], table["embedding"], strict=True)
    ):
        try:
            if not isinstance(vector, list) or not all(type(number) is float for number in vector):
                raise ValueError("its embedding is no list of numbers")
            if not all(map(math.isfinite, vector)):
                raise ValueError("its embedding has numbers that are not finite")
            vectors.setdefault(split_prompt(text), vector)
        except ValueError as error:
            raise ValueError(f"{source}, row {row}: {error}") from error
    widths = {len(vector) for vector in vectors.values()}
    if len(widths) != 1:
        raise ValueError(f"{source}: embeddings of {sorted(widths)} numbers stand side by side")
    write_vectors(target, list(vectors), np.array(list(vectors.values()), dtype=np.float32))
    return len(table["embedding"]), len(vectors), widths.pop()


def main(arguments: Sequence[str]) -> int:
    """Run the command: 0 converted, 2 refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the pickle")
    parser.add_argument("target", type=Path, help="the npz file to write")
    paths = parser.parse_args(arguments)
    try:
        if paths.target.suffix != ".npz":
            raise ValueError(f"{paths.target}: give a name that ends in .npz")
        rows, texts, width = convert(paths.source, paths.target)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{rows} rows, {texts} distinct texts, {width} wide: {paths.target}")
    print(f"Use it with embedding=table embedding.path={paths.target}")
    return 0


def _values(array: Record) -> list[list[Any]]:
    """Rows of a two-dimensional array of objects; one row of a plain or an Arrow one."""
    if array.name == "ArrowStringArray":
        return [_arrow_texts(array.state["_pa_array"])]
    _, shape, _, _, values = array.state
    rows, length = (1, *shape)[-2:]
    if len(values) != rows * length:
        raise ValueError(f"an array of shape {shape} has {len(values)} values")
    return [values[row * length : (row + 1) * length] for row in range(rows)]


def _arrow_texts(array: Record) -> list[str]:
    (kind, length, _, start, (_, offsets, texts), _, _) = array.arguments[0]
    if kind.arguments != ("large_string",):
        raise ValueError(f"a column of {kind.arguments}, not of texts")
    ends = np.frombuffer(offsets.arguments[0], "<i8")[start : start + length + 1].tolist()
    content = bytes(texts.arguments[0])
    return [content[begin:end].decode() for begin, end in pairwise(ends)]


def _places(places: Record) -> list[int]:
    """Columns of a block: a slice, or an array of numbers."""
    if places.name == "slice":
        return list(range(*places.arguments))
    content, dtype, _, _ = places.arguments
    if dtype.arguments[0] != "i8":
        raise ValueError(f"columns are numbered by {dtype.arguments[0]!r}")
    return [int(place) for place in np.frombuffer(content, "<i8")]


def _plain(text: str) -> str:
    return re.sub(r"\A(-?\d+)\.0\Z", r"\1", text.strip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
