"""What is read of a plug-in's source text: bases wherever they stand, and what a declaration may not say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from test_plugins import CACHED

from latentopt import types
from latentopt.declarations.declared import FIELDS, declared, options_of
from latentopt.errors import UsageError

BASE = """
class Base:
    owns = {"ws"}

    def __init__(self, generator, *, angle: float = 1.0): ...
"""
FAILS = "raise RuntimeError('imported')\n"  # no file of the package may be run
BASES = {  # {case: ({file: text}, the class that is asked for)}
    "beside the package": (
        {"mypkg/__init__.py": FAILS + "from .spaces import Base", "mypkg/spaces.py": BASE},
        "mypkg:Base",
    ),
    "a module of the package": (
        {
            "mypkg/__init__.py": FAILS + "from . import spaces\nclass A(spaces.Base): ...",
            "mypkg/spaces.py": BASE,
        },
        "mypkg:A",
    ),
    "in the package above": (
        {"mypkg/__init__.py": FAILS + BASE, "mypkg/sub/__init__.py": "from .. import Base\nclass A(Base): ..."},
        "mypkg.sub:A",
    ),
    "beside the module": (
        {
            "mypkg/__init__.py": FAILS,
            "mypkg/own.py": "from .spaces import Base as B\nclass A(B): ...",
            "mypkg/spaces.py": BASE,
        },
        "mypkg.own:A",
    ),
    "a dotted import": (
        {
            "mypkg/__init__.py": FAILS,
            "mypkg/sub/__init__.py": "",
            "mypkg/sub/spaces.py": BASE,
            "myplugin.py": "import mypkg.sub.spaces\nclass A(mypkg.sub.spaces.Base): ...",
        },
        "myplugin:A",
    ),
    "a dotted import with a name": (
        {
            "mypkg/__init__.py": FAILS,
            "mypkg/spaces.py": BASE,
            "myplugin.py": "import mypkg.spaces as s\nclass A(s.Base): ...",
        },
        "myplugin:A",
    ),
    "folders without __init__.py": (
        {"mypkg/sub/spaces.py": BASE, "myplugin.py": "from mypkg.sub.spaces import Base\nclass A(Base): ..."},
        "myplugin:A",
    ),
    "everything is imported, in a circle": (
        {
            "mypkg/__init__.py": FAILS + "from .own import *\nfrom .spaces import *",
            "mypkg/own.py": "from mypkg import *\nclass A(Base): ...",
            "mypkg/spaces.py": BASE,
        },
        "mypkg.own:A",
    ),
    "imported under try": (
        {
            "myspaces.py": BASE,
            "myplugin.py": "try:\n    from nowhere_at_all import Base\nexcept ImportError:\n"
            "    from myspaces import Base\nclass A(Base): ...",
        },
        "myplugin:A",
    ),
    "beside bases that have nothing to read": (
        {
            "myplugin.py": "import typing\nfrom abc import ABC\nfrom typing import Generic, Protocol, TypeVar\n"
            f"T = TypeVar('T')\n{BASE}\n"
            "class A(Base, Generic[T], ABC, object): ...\nclass B(A[int], typing.Protocol, dict): ..."
        },
        "myplugin:B",
    ),
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes files into a folder that modules are looked for in; what was read before is forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Path(tmp_path / name).write_text(text)
        importlib.invalidate_caches()
        for function in CACHED:
            function.cache_clear()

    yield write
    for function in CACHED:
        function.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("mypkg", "myplugin", "myspaces"))]:
        del sys.modules[name]


@pytest.mark.parametrize("case", BASES)
def test_a_base_is_found_where_it_stands(case, written):
    files, target = BASES[case]
    written(files)
    assert declared(target).owns == {"ws"}
    assert list(options_of(target)) == ["angle"]


LOST = {
    "no import": ("class A(Base): ...", "Base"),
    "no such module": ("from nowhere_at_all import Base\nclass A(Base): ...", "Base"),
    "above the outermost package": ("from ...spaces import Base\nclass A(Base): ...", "Base"),
    "not in the module": ("import myspaces\nclass A(myspaces.Bare): ...", "myspaces.Bare"),
    "not in what is all imported": ("from myspaces import *\nclass A(Bare): ...", "Bare"),
    "made by a function": ("from myspaces import make\nclass A(make(1)): ...", "make(1)"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_base_that_is_not_found_is_named(case, written):
    text, base = LOST[case]
    written({"myplugin.py": text, "myspaces.py": BASE})
    with pytest.raises(UsageError) as caught:
        declared("myplugin:A")
    assert str(caught.value) == f"myplugin:A: the source text of its base {base} is not found"


CONSTRUCTOR = "    def __init__(self, generator, *, angle: float = 1.0, stats: str | None = None): ...\n"
WRONG = {  # {literals: words}
    "owns = 'ws'": "owns must be a set of fields of GeneratorInputs (ws, noise, deltas, styles, residuals, transform)",
    "owns = {'ws', 'weights'}": "owns must be a set of fields",
    "owns = {'ws': 1}": "owns must be a set of fields",
    "owns = [['ws']]": "owns must be a set of fields",
    "shares = 'all'": "declares something of 'all', which is no option",
    "rank = 'all'": "declares something of 'all', which is no option",
    "reads = {'stat': 'p-norm'}": "declares something of 'stat', which is no option",
    "reads = 'p-norm'": "reads must be a table by options, not 'p-norm'",
    "reads_if = {'stat': ('angle',)}": "declares something of 'stat', which is no option",
    "reads_if = {'stats': ('angel',)}": "declares something of 'angel', which is no option",
    "reads_if = {'stats': 'angle'}": "reads_if must give each option a tuple of options, not 'angle'",
}


@pytest.mark.parametrize("literal", WRONG)
def test_a_literal_that_cannot_be_meant(literal, written):
    written({"myplugin.py": f"class A:\n    {literal}\n{CONSTRUCTOR}"})
    with pytest.raises(UsageError) as caught:
        declared("myplugin:A")
    assert str(caught.value).startswith("myplugin:A")
    assert WRONG[literal] in str(caught.value)


def test_a_constructor_may_leave_out_options_that_its_base_declares(written):
    literals = "    reads = {'stats': 'p-norm'}\n    reads_if = {'stats': ('angle',)}\n"
    fewer = "    def __init__(self, generator): ...\n"
    written({"myplugin.py": f"class A:\n{literals}{CONSTRUCTOR}class B(A):\n{fewer}class C(A):\n{literals}{fewer}"})
    assert declared("myplugin:B").reads == {"stats": "p-norm"}
    assert list(options_of("myplugin:B")) == []
    with pytest.raises(UsageError, match="myplugin:C declares something of 'stats'"):
        declared("myplugin:C")


@pytest.mark.parametrize("literal", ["{'ws', 'noise'}", "['ws', 'noise']", "('ws', 'noise')"])
def test_owns_may_be_written_as_any_collection(literal, written):
    written({"myplugin.py": f"class A:\n    owns = {literal}\n"})
    assert declared("myplugin:A").owns == {"ws", "noise"}


def test_the_fields_are_those_of_the_inputs():
    assert types.FIELDS == FIELDS
