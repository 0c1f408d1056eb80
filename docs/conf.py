"""Builds the site: `sphinx-build -W -c docs . site/html` from the top of a checkout (extra `docs`).

The pages are the Markdown files of the checkout as they stand, so that their links work here and on a forge alike. What
can be read off the code, the functions and the commands, is written to `docs/generated` at the beginning.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx

TOP = Path(__file__).parent.parent
sys.path.insert(0, str(TOP))
os.environ["PYTHONPATH"] = os.pathsep.join([str(TOP), *filter(None, [os.environ.get("PYTHONPATH")])])  # the tutorial's

from latentopt import api  # noqa: E402
from latentopt.commands import COMMANDS, cli  # noqa: E402
from latentopt.files.versions import package_version  # noqa: E402

project = "latentopt"
author = copyright = "the latentopt developers"
version = release = package_version()

extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "benchmarks/README.md",
    "benchmarks/results/**",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = ["docs/generated/.*"]
html_theme = "furo"
html_title = f"latentopt {version}"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links to headings, as a forge makes them
nb_execution_mode = "force"  # the tutorial shows what today's code does
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

GENERATED = TOP / "docs" / "generated"
PAGES = (  # modules that are shown whole
    "latentopt.protocols",
    "latentopt.protocols.generator",
    "latentopt.protocols.plugin",
    "latentopt.protocols.stage_parts",
    "latentopt.protocols.refiner",
    "latentopt.protocols.face_detector",
    "latentopt.types",
    "latentopt.errors",
)


def write_reference(_: Sphinx) -> None:
    """The pages that are read off the code."""
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "api.md").write_text("\n".join(api_page()), encoding="utf-8")
    (GENERATED / "commands.md").write_text("\n".join(commands_page()), encoding="utf-8")


def api_page() -> Iterator[str]:
    """Every name of `latentopt.api`, by the room that it lives in, then the interfaces."""
    yield "# Functions and classes\n\nThese are the names of `latentopt.api`; each is imported when it is first used.\n"
    rooms: dict[str, list[str]] = {}
    for name, module in ({"tune": "latentopt.api"} | api.EXPORTS).items():
        rooms.setdefault(module.split(".")[1], []).append(name)
    for room, names in rooms.items():
        yield f"## {'tuning' if room == 'api' else room}\n"
        yield "```{eval-rst}"
        for name in sorted(set(names), key=str.lower):
            kind = "class" if isinstance(getattr(api, name), type) else "function"
            yield f".. auto{kind}:: latentopt.api.{name}"
            yield "   :members:\n" if kind == "class" else ""
        yield "```\n"
    for module in PAGES:
        yield f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n   :undoc-members:\n```\n"


def commands_page() -> Iterator[str]:
    """What `--help` says of every command."""
    yield "# Commands\n\nThis is what `latentopt COMMAND --help` prints.\n"
    for words, command in every_command(cli, ()):
        context = click.Context(command, info_name=" ".join(("latentopt", *words)), max_content_width=100)
        yield f"## latentopt {' '.join(words)}\n\n```text\n{command.get_help(context)}\n```\n"


def every_command(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in COMMANDS if group is cli else group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from every_command(command, (*words, name))
        elif command is not None:
            yield (*words, name), command


def plain_text(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """Docstrings are plain text: `names` become code, indented lines stay as they are, marks of RST are themselves."""
    shown: list[str] = []
    for line in lines:
        if line[:1].isspace():
            shown.append(line if _is_block(shown) else f"::\n\n{line}")
        else:
            shown += ["", escaped(line)] if _is_block(shown) else [escaped(line)]
    lines[:] = "\n".join(shown).split("\n")


def _is_block(shown: list[str]) -> bool:
    """Whether the last line that is not empty belongs to an indented block."""
    last = next((line for line in reversed(shown) if line.strip()), "")
    return last.rpartition("\n")[2][:1].isspace()


def escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(
        f"`{part}`" if part.startswith("`") and len(part) > 2 else re.sub(r"([\\*_|`\[\]<>:+-])", r"\\\1", part)
        for part in parts
    )


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_reference)
    app.connect("autodoc-process-docstring", plain_text)
