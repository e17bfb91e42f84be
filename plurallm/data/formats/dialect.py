"""How tables of text are written: their delimiter and their encoding, found or checked."""

import codecs
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from plurallm.config.surveys import DELIMITERS

_BLOCK = 2**20
_START = 2**12  # even: characters of two bytes


def open_table(path: Path) -> IO[bytes]:
    """Open a file for its bytes, those in it where it is compressed."""
    opener: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    file: IO[bytes] = opener(path, "rb")
    return file


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a file for its text, ends of lines as they are."""
    return io.TextIOWrapper(open_table(path), encoding=encoding, newline="")


def find_encoding(path: Path) -> str:
    """Guess the encoding of a text: UTF-16, or UTF-8 where it is that, or else Windows-1252.

    Raises
    ------
    OSError, EOFError, zlib.error
        When the file cannot be read.
    """
    with open_table(path) as file:
        start = file.read(_START)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        for places, found in ((start[1::2], "utf-16-le"), (start[::2], "utf-16-be")):
            if places.count(0) * 2 > len(places):  # without its mark
                return found
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            decoder.decode(start)
            while part := file.read(_BLOCK):
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"


def damaged_place(path: Path) -> str | None:
    """Say where a text stops being UTF-8 that is UTF-8 for the most part; None for other texts."""
    with open_table(path) as file:
        text = file.read().decode("utf-8", errors="replace")
    beyond = sum(not char.isascii() for char in text)
    broken = text.count("\ufffd")
    if broken * 2 >= beyond:
        return None
    return f"line {text[: text.index(chr(0xFFFD))].count(chr(10)) + 1}"


def other_delimiter(header: Sequence[str], used: str) -> str | None:
    """Name the delimiter that a header seems to have in place of the one it was read with."""
    if len(header) > 1:
        return None
    times = {name: "".join(header).count(sign) for name, sign in DELIMITERS.items() if sign != used}
    likely = max(times, key=times.__getitem__)
    return likely if times[likely] else None
