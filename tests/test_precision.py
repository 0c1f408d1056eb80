"""What arithmetic a training chooses."""

from __future__ import annotations

import pytest
import torch

from latentopt.training.precision import autocast, precision_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_auto_is_bfloat16_only_where_the_processor_computes_in_it(known, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert precision_of("auto", CPU) is chosen
    assert precision_of("bfloat16", CPU) is torch.bfloat16  # as it was said


def test_float32_is_left_as_it_is():
    x = torch.ones(2, 2)
    for precision, kept in ((torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)):
        with autocast(CPU, precision):
            assert (x @ x).dtype is kept
    with autocast(CPU, torch.bfloat16, wanted=False):
        assert (x @ x).dtype is torch.float32


def test_a_processor_without_bfloat16_says_so_where_it_is_asked_for(monkeypatch, capsys):
    from latentopt.commands.batches import load_network

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    load_network("portraits", "cpu", "bfloat16")
    assert "--dtype float32 is faster here" in capsys.readouterr().err
    load_network("portraits", "cpu", "float32")
    assert not capsys.readouterr().err
