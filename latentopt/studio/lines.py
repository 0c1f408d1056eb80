"""The command lines that make what the studio has made."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentopt.api import Recipe, recipe_names, tuning_recipe
from latentopt.editing.layers import layers_text
from latentopt.errors import LatentoptError
from latentopt.files.text import one_line
from latentopt.recipe.entries import terms_of
from latentopt.studio.places import in_words

if TYPE_CHECKING:
    from latentopt.editing.sequence import Edit


def line(*words: object) -> str:
    """A command of latentopt, each word quoted as a shell needs it; None is left out."""
    texts = [in_words(word) if isinstance(word, Path) else str(word) for word in words if word is not None]
    return one_line(" ".join(["latentopt", *(shlex.quote(text) for text in texts)]))


def option(flag: str, value: object) -> list[object]:
    """An option, where there is a value for it."""
    return [] if value is None else [flag, value]


def editing(base: Path, edits: Sequence[Edit], network: str, more: Sequence[str] = ()) -> str:
    """What draws `base` edited. more: further options."""
    done = [word for edit in edits for word in ("--do", f"{edit.name}={edit.strength:+g}{_rows(edit)}")]
    return line("edit", base, *done, *more, "--network", network)


def mixing(coarse: Path, fine: Path, row: int, to: Path, network: str) -> str:
    """What mixes two."""
    return line("mix", coarse, fine, "--split", row, "--to", to, "--network", network)


def making(folder: Path, record: Mapping[str, Any]) -> str:
    """What makes the result in `folder`, by its run.json.

    The recipe is named with the options that make exactly what was run, by its digest, of the shipped one of its name;
    where there are none, the file that lies in the folder is named.
    """
    network = record["generator"].get("source", record["generator"]["name"])
    common = ["--network", network, "--seed", record["seed"]]
    start, options = record.get("tuned_from"), record.get("options", {})
    if record.get("tuned") and start and start.get("folder"):
        method = _recipe_words(folder, record, "--method", start.get("recipe_toml", ""))
        return line("tune", Path(start["folder"]), *method, *common, "--to", _run(folder, record))
    source = Path(record["source"].get("file") or record["source"]["path"])
    words = [*_recipe_words(folder, record, "--recipe"), *option("--fit", options.get("fit")), *common]
    if "simulate" in options:
        words += ["--simulate"] if options["simulate"] else []
        return line("restore", source, *words, "--outdir", _run(folder, record))
    return line("invert", source, *words, "--outdir", _run(folder, record))


def _recipe_words(folder: Path, record: Mapping[str, Any], flag: str, earlier: str = "") -> list[object]:
    """How to name a result's recipe. earlier: the recipe of the result that was tuned, as TOML."""
    name, file = record["recipe"]["name"], folder / "recipe.toml"
    try:
        done = Recipe.load(str(file))
        found = Recipe.load(name) if name in recipe_names() else done
        found = tuning_recipe(found, Recipe.parse(earlier)) if earlier else found
        words: list[object] = [flag, name]
        if operator := operator_text(done.stages[0].operators):
            found, words = found.measuring(operator), [*words, "--operator", operator]
        for changed, more in _changes(found, done):
            if changed.digest == record["recipe"]["digest"]:
                return [*words, *more]
    except (LatentoptError, ValueError, IndexError):  # of another release, or changed by hand
        pass
    return [flag, file]


def operator_text(tables: Sequence[Mapping[str, Any]]) -> str:
    """Operators of a recipe as the command line has them; options at their defaults too."""
    return ",".join(":".join(str(value) for value in table.values() if value is not None) for table in tables)


def _changes(found: Recipe, done: Recipe) -> Iterator[tuple[Recipe, list[object]]]:
    """A shipped recipe with options that may make it the one that was run, and these options."""
    first = done.stages[0]
    terms = ",".join(f"{term['name']}={term['weight']:g}" for term in first.terms)
    clip = next((part.get("clip") for part in first.optimize), None)
    key = ("stages", 0, "optimize", 0, "clip")
    stepped: list[tuple[Recipe, list[object]]] = [(found, [])]
    if first.steps > 0:
        stepped.append((found.in_every_stage(steps=first.steps), ["--steps", first.steps]))
    for recipe, words in stepped:
        yield recipe, words
        yield recipe.in_every_stage(terms=terms_of(terms)), [*words, "--terms", terms]
        if clip is not None:
            clipped = [*words, "--clip", f"{clip:g}"]
            yield recipe.changed({key: clip}), clipped
            yield recipe.changed({key: clip}).in_every_stage(terms=terms_of(terms)), [*clipped, "--terms", terms]


def _run(folder: Path, record: Mapping[str, Any]) -> Path:
    """The folder of the run: as far above the result's as its name has parts."""
    return folder.parents[record.get("name", folder.name).count("/")]


def _rows(edit: Edit) -> str:
    return "" if edit.layers is None else f"@{layers_text(edit.layers)}"
