"""TOML that may be hostile: bounded before it is parsed, since the parser's time and memory are not."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from latentopt.files.schema import check_bounds

TOML_LIMIT = 1 << 16  # characters; a recipe has some two thousand
LONGEST_KEY = 8  # parts of a dotted key; recipes have two
LONGEST_WORD = 200  # characters of a number or a key; the parser takes minutes for numbers of many digits
STRINGS = re.compile(
    r'"""(?:\\.|[^\\])*?"""' + r"|'''.*?'''" + r'|"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'" + r"|#[^\n]*", re.DOTALL
)
DOTTED = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{LONGEST_KEY}}}")  # possessive: no second try
LONG_WORD = re.compile(rf"[\w.+:-]{{{LONGEST_WORD}}}")


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text. Raises ValueError for what is none, or is larger or deeper than a recipe can be."""
    if len(text) > TOML_LIMIT:
        raise ValueError(f"{len(text)} characters, more than a recipe has ({TOML_LIMIT})")
    bare = STRINGS.sub("x", text)  # a string may be a part of a key too
    if LONG_WORD.search(bare):
        raise ValueError(f"a word or number of more than {LONGEST_WORD} characters")
    if DOTTED.search(bare):
        raise ValueError(f"a key of more than {LONGEST_KEY} parts")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nests too deeply") from None
    check_bounds(table)
    return table
