"""Memory that is freed stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from latentopt.commands.allocation import MMAP, TRIM, TUNABLES, _kept, keep_freed_memory

FAULTS = """
import resource, sys
import torch
from latentopt.commands.allocation import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10 << 20)  # 40 MiB, 10 thousand pages: more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_freed_memory({})
counted = [pages() for _ in range(30)]
print(sum(counted[20:]))  # the first few may not fit where the last one lay: the ends cut off it are kept apart
"""
LIBRARY = tuple(int(part) for part in platform.libc_ver()[1].split(".") if part.isdigit())
linux = pytest.mark.skipif(sys.platform != "linux", reason="of glibc")


def faults(kind: str) -> int:
    bare = {name: value for name, value in os.environ.items() if name not in (MMAP, TRIM)}  # a test may have set them
    result = subprocess.run([sys.executable, "-c", FAULTS, kind], capture_output=True, text=True, check=True, env=bare)
    return int(result.stdout)


@linux
@pytest.mark.skipif(LIBRARY < (2, 35), reason="older ones keep no such blocks")
def test_blocks_are_not_asked_for_again():
    assert faults("kept") < 0.5 * faults("as it is")


@linux
def test_programs_that_are_begun_do_the_same():
    environment: dict[str, str] = {}
    keep_freed_memory(environment)
    assert set(environment) == {MMAP, TRIM}


@pytest.mark.parametrize(("most", "kept"), [(1 << 40, str(1 << 30)), (1 << 25, str(1 << 25)), (0, None)])
def test_a_library_that_takes_less_is_given_less(most, kept):
    """And one that takes nothing is left to adjust itself."""
    asked = []

    def mallopt(number, value):
        asked.append(number)
        return int(value <= most or number == -1)

    assert _kept(mallopt).get(MMAP) == kept
    assert (-1 in asked) == (kept is not None)


@pytest.mark.parametrize("name", [MMAP, TRIM, TUNABLES])
def test_what_is_set_already_stays(name):
    environment = {name: "1"}
    keep_freed_memory(environment)
    assert environment == {name: "1"}
