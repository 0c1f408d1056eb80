"""Memory that is freed stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from latentopt.commands.allocation import LARGEST, LARGEST_MAPPED, SETTINGS, keep_freed_memory

FAULTS = """
import resource, sys
import torch
from latentopt.commands.allocation import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)  # 64 MiB: 16 thousand pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_freed_memory({})
print(sum(pages() for _ in range(10)))
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="of glibc")


def faults(kind: str) -> int:
    result = subprocess.run([sys.executable, "-c", FAULTS, kind], capture_output=True, text=True, check=True)
    return int(result.stdout)


@linux
def test_blocks_are_not_asked_for_again():
    assert faults("kept") < 0.5 * faults("as it is")


@linux
def test_processes_that_are_begun_do_the_same():
    environment: dict[str, str] = {}
    keep_freed_memory(environment)
    assert environment == dict(zip(SETTINGS, (str(LARGEST), str(LARGEST_MAPPED)), strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_set_already_stays(name):
    environment = {name: "1"}
    keep_freed_memory(environment)
    assert environment == {name: "1"}
