"""The README of a repository on the Hub: what is in it, by what is on record, and how it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from latentopt.files.text import one_line, shortened
from latentopt.files.versions import package_version

TEMPLATE = Path(__file__).with_name("card.md")
LIBRARY = "latentopt"
LONGEST = 300  # characters of an entry


class Code(NamedTuple):
    language: str
    text: str


class Picture(NamedTuple):
    file: str
    words: str


@dataclass(frozen=True)
class Card:
    """facts: what the table tells; uses: (sentence, code) each; about: more entries of the head that the Hub reads."""

    title: str
    summary: str
    picture: Picture
    facts: Mapping[str, object]
    data: str
    figures: str
    uses: Sequence[tuple[str, Code]]
    licence: str | None
    tags: Sequence[str]
    about: Mapping[str, object] = field(default_factory=dict)

    def text(self) -> str:
        """The page, as Markdown with the head that the Hub reads."""
        head = {"library_name": LIBRARY, "tags": list(self.tags), **self.about}
        if self.licence is not None:
            head = {"license": self.licence.lower(), **head}
        stated = "No licence is stated." if self.licence is None else f"{plain(self.licence)}."
        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            about={key: json.dumps(value) for key, value in head.items()},  # JSON is YAML, and quotes what must be
            title=plain(self.title),
            summary=self.summary,
            picture=self.picture,
            facts={plain(name): plain(value) for name, value in self.facts.items() if value not in (None, "", [])},
            data=self.data,
            figures=self.figures,
            uses=self.uses,
            licence=stated,
            version=package_version(),
        )


def plain(value: object) -> str:
    """What a file or a name says, as text in a line or a cell of Markdown: it makes no link, no tag and no column."""
    text = shortened(one_line(str(value)), LONGEST)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of Markdown; numbers with four digits."""
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else plain(value)
