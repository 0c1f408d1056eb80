"""Where the folders that ship with latentopt are: at the top level of a checkout, inside an installed package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent  # of the package, not of this room


def resource_folder(name: str) -> Path:
    """The shipped folder `name` (`recipes`, `pnorm_stats`): inside the package if it is there, else beside it.

    The folder beside the package is a checkout's; a checkout that has no such folder yet gets the path all the same.
    """
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name
