"""Paths on the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click


class UserPath(click.Path):
    """A path, in which a leading `~` is the home folder (or `~name` that of a user), also where the shell left it alone
    as in `--outdir=~/results`. Other text, such as the name of a bundled model, stays as it is, and so do `$VARIABLES`.

    `within`: characters behind which a path may begin too, as in a list of them (",") or in `file:~/w.npz` (":").
    """

    def __init__(self, within: str = "", **settings: Any) -> None:
        super().__init__(**settings)
        self.home = re.compile(rf"(?:^|(?<=[{re.escape(within)}]))~[^/{re.escape(within)}]*" if within else r"^~[^/]*")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = os.fsdecode(value)

        def expanded(found: re.Match) -> str:
            home = os.path.expanduser(found[0])  # noqa: PTH111 (no path: a part of the text)
            if home.startswith("~") and not Path(text).exists():
                self.fail(f"{found[0]!r} is no user's home folder; write ./{text} if it is a name", param, ctx)
            return home

        return super().convert(self.home.sub(expanded, text), param, ctx)
