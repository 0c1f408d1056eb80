"""`latentopt info FILE`."""

from __future__ import annotations

from typing import Any

import click

from latentopt.commands.paths import UserPath
from latentopt.files.text import one_line


@click.command("info")
@click.argument("source", metavar="FILE", type=UserPath())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: str, as_json: bool) -> None:
    """Say what a model file is and what can be done with it.

    FILE is an NVIDIA .pkl, a .pt of PTI, rosinality or an encoder, a safetensors file of latentopt (networks, P-norm
    statistics, deltas of tuned weights, saved inputs), or the name of a bundled model. The kind is told by content, not
    by the name. Nothing in the file is run: one that asks for code to be run is refused with exit code 4.

    \b
    Example:
      latentopt info portraits
      latentopt info ffhq.pkl --json
      latentopt info out/ada/delta.safetensors
    """
    from latentopt.api import describe
    from latentopt.files.storage import to_json

    facts = describe(source)
    click.echo(to_json(facts, indent=2) if as_json else "\n".join(_lines(facts)))


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    shown = {one_line(str(key)).replace("_", " "): value for key, value in facts.items() if value not in (None, [], {})}
    width = max((len(key) for key in shown), default=0)
    lines = []
    for key, value in shown.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:{width}}  {one_line(_text(key, value))}")
    return lines


def _text(key: str, value: object) -> str:
    if key == "resolution" and isinstance(value, list):
        return "x".join(map(str, value))
    if key == "notes" and isinstance(value, list):
        return "; ".join(map(str, value))
    if isinstance(value, list):
        if all(isinstance(item, dict) for item in value):
            return "; ".join(", ".join(f"{name} {entry}" for name, entry in item.items()) for item in value)
        return " ".join(map(str, value))
    return f"{value:,}" if key in ("parameters", "values", "bytes") and isinstance(value, int) else str(value)
