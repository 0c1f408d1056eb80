"""The Markdown pages: links lead somewhere, latentopt takes the command lines, and examples do what is said."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from latentopt.commands import COMMANDS, cli
from latentopt.files.versions import package_version
from latentopt.recipe.recipe import Recipe

TOP = Path(__file__).parent.parent
PAGES = [
    *TOP.glob("*.md"),
    *(path for path in TOP.glob("docs/**/*.md") if "generated" not in path.parts),
    *TOP.glob("benchmarks/**/*.md"),
]
IDS = [path.relative_to(TOP).as_posix() for path in PAGES]
LINK = re.compile(r"\]\(([^()\s]+)\)")
NEWCOMERS = ("coming-from", "which-method", "hub", "gallery", "shell", "tutorial")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What links to headings of a page say."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", h).lower()).replace(" ", "-") for h in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() and target.is_relative_to(TOP), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_site():
    index = (TOP / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {line.strip().split("<")[-1].rstrip(">") for line in index.splitlines()}
    missing = {path.stem for path in TOP.glob("docs/*.md")} - {"index"} - listed
    assert not missing


def lines(page: Path) -> list[str]:
    """The command lines of latentopt on a page, comments and what is joined to them left out."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))  # of lines that go on
    found = re.findall(r"^(?: {4}|\s*\$ )?(latentopt [a-z].*)$", text, re.M)
    return [line for line in found if line.split()[1] in COMMANDS]


def check(line: str) -> None:
    """Take a command line apart as the command does. Raises click's errors for what it would not take."""
    words = shlex.split(re.split(r" && | \| | > ", line)[0], comments=True)[1:]
    group: click.Command = cli
    while isinstance(group, click.Group):
        group = group.get_command(click.Context(group), words.pop(0))
    parsed = group.make_parser(click.Context(group)).parse_args(list(words))
    assert parsed is not None


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_command_lines_are_ones_that_latentopt_takes(page):
    for line in lines(page):
        try:
            check(line)
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.message}")


def test_the_pages_for_newcomers_have_command_lines_and_wrong_ones_are_found():
    assert all(lines(TOP / "docs" / f"{name}.md") for name in NEWCOMERS if name not in ("shell", "tutorial"))
    with pytest.raises(click.UsageError):
        check("latentopt invert --no-such-option 3")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def test_the_recipe_of_contributing_is_one(tmp_path):
    (text,) = blocks(TOP / "CONTRIBUTING.md", "toml")
    (tmp_path / "example.toml").write_text(text, encoding="utf-8")
    assert Recipe.load(str(tmp_path / "example.toml")).stages[0].steps == 120


def test_the_generator_of_contributing_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (text,) = blocks(TOP / "CONTRIBUTING.md", "python")
    exec(text, {})
    assert "(16, 16)" in capsys.readouterr().out and (tmp_path / "mine.safetensors").is_file()


def test_the_citation_names_this_release():
    text = (TOP / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"version: {project['version']}\n" in text and f"license: {project['license']}\n" in text
    assert package_version() == project["version"]
