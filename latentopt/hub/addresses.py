"""Addresses of files on the Hub: `hf:user/repo`, with `@revision` and `/path/of/a/file` after it as wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from latentopt.errors import UsageError

SCHEME = "hf:"
FORM = "hf:user/repo[@revision][/file]"
USUAL = ("generator", "discriminator", "encoder", "refiner")  # names of files that say nothing but what is in them
NAME = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
REPO = re.compile(rf"{NAME}/{NAME}", re.ASCII)
ADDRESS = re.compile(
    rf"hf:/{{0,2}}(?P<repo>{REPO.pattern})(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[\w.-]+))?(?:/(?P<file>.+))?",
    re.ASCII,
)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubAddress:
    """`revision`: a branch, a tag or a commit; None for the main branch. `file`: its path; None for the usual one."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repo}{revision}{'' if self.file is None else f'/{self.file}'}"

    @property
    def name(self) -> str:
        """What a model from there is called: after the repository, or after a file with a name of its own."""
        stem = "" if self.file is None else PurePosixPath(self.file).stem
        return self.repo.split("/")[1] if stem in ("", *USUAL) else stem

    @property
    def is_fixed(self) -> bool:
        """Whether it means the same contents for ever: its revision is a commit."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None


def hub_address(source: str | Path) -> HubAddress | None:
    """`source` as an address on the Hub; None for other names, and for a file that is called like one.

    Raises UsageError for one that is not of the form.
    """
    text = str(source)
    if not text.lower().startswith(SCHEME) or Path(text).exists():
        return None
    found = ADDRESS.fullmatch(SCHEME + text[len(SCHEME) :])
    if found is None or any(part in ("", ".", "..") for part in (found["file"] or "x").split("/")):
        raise UsageError(f"{text}: no address on the Hub; write {FORM}, as hf:someone/faces@v1.0")
    return HubAddress(found["repo"], found["revision"], found["file"])


def check_repo(name: str) -> str:
    """The name of a repository. Raises UsageError for what the Hub would not take as one."""
    if not REPO.fullmatch(name) or "--" in name or ".." in name:
        raise UsageError(f"{name}: no name of a repository; write user/repo, of letters, digits, -, _ and .")
    return name
