from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import pickle
import pickletools
import stat
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pickle_writer import Call, Name, PersistentId, dumps, network, storage_blob, tensor_call
from safetensors.torch import load_file

from latentopt.checkpoints import persistence, pickle_limits, restricted_unpickler
from latentopt.checkpoints import torch_zip as torch_zip_module
from latentopt.checkpoints.restricted_pickle import (
    Record,
    module_attributes,
    module_state,
    read_pickle,
    read_torch_contents,
    read_torch_file,
)
from latentopt.errors import CheckpointError, LatentoptError, UntrustedFileError

PICKLES = Path(__file__).parent / "reference" / "pickles"
LOADED: list[str] | None = None  # audit events of the reader while it is watched
RUNNING = {
    "exec",
    "compile",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
}


def _audit(event: str, arguments: tuple) -> None:
    if LOADED is None or event not in RUNNING:
        return
    filename = arguments[0].co_filename if event == "exec" else arguments[1] if event == "compile" else ""
    if not filename or not Path(str(filename)).exists():  # a late import of the standard library is no payload
        LOADED.append(event)


sys.addaudithook(_audit)


@contextlib.contextmanager
def nothing_run():
    """Fails when source text is compiled or executed, or a process is started, inside."""
    global LOADED
    LOADED = []
    try:
        yield
    finally:
        events, LOADED = LOADED, None
    assert not events


def reference(name: str) -> dict[str, torch.Tensor]:
    return load_file(PICKLES / f"{name}.safetensors")


def stream(name: str) -> bytes:
    tensors = reference(name)
    return (tensors["pt_bytes"] if "pt_bytes" in tensors else tensors["pickle_bytes"]).numpy().tobytes()


def expected(name: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix("expect/"): v for k, v in reference(name).items() if k.startswith("expect/")}


def snapshot_tensors(snapshot: dict) -> dict[str, torch.Tensor]:
    networks = {name: value for name, value in snapshot.items() if isinstance(value, Record)}
    return {f"{name}/{k}": v for name, net in networks.items() for k, v in module_state(net).items()}


def assert_bit_equal(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert got[key].dtype == value.dtype and got[key].shape == value.shape and got[key].is_contiguous(), key
        assert got[key].numpy().tobytes() == value.contiguous().numpy().tobytes(), key


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def pt(tmp_path: Path):
    def write(data: bytes) -> Path:
        (tmp_path / "net.pt").write_bytes(data)
        return tmp_path / "net.pt"

    return write


def test_the_watch_sees_source_text_run():
    with pytest.raises(AssertionError), nothing_run():
        exec("1 + 1")


# ---- what is read


@pytest.mark.parametrize(("name", "count"), [("sg2ada_snapshot", 143), ("sg3_snapshot", 116)])
def test_snapshot_is_recovered_bit_for_bit(name, count):
    with nothing_run():
        snapshot = read_pickle(stream(name), name)
    assert set(snapshot) == {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"}
    assert snapshot["training_set_kwargs"]["resolution"] == 16
    assert len(expected(name)) == count
    assert_bit_equal(snapshot_tensors(snapshot), expected(name))


def test_saved_module_is_recovered_bit_for_bit(pt):
    path = pt(stream("pti_style_pt"))
    with nothing_run():
        generator = read_torch_contents(path)
    assert (generator.class_name, generator.version) == ("Generator", 6)
    assert_bit_equal(module_state(generator), expected("pti_style_pt"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("name", ["sg2ada_snapshot", "sg3_snapshot"])
def test_every_protocol_and_numpy_spelling(name, protocol, core):
    first = read_pickle(stream(name), name)
    data = dumps(first, protocol, core)
    if name == "sg3_snapshot":  # arrays are in SG3 files only
        module, function = ("numeric", "_frombuffer") if protocol == 5 else ("multiarray", "_reconstruct")
        assert f"numpy.{core}.{module}".encode() in data and function.encode() in data
    second = read_pickle(data, name)
    assert_bit_equal(snapshot_tensors(second), expected(name))
    for net in ("G", "D", "G_ema"):
        assert module_attributes(second[net]) == module_attributes(first[net])


def test_attributes_of_both_families():
    ada = module_attributes(read_pickle(stream("sg2ada_snapshot"), "ada")["G_ema"])
    assert ada[""]["_init_kwargs"]["synthesis_kwargs"] == {
        "channel_base": 128,
        "channel_max": 12,
        "num_fp16_res": 4,
        "conv_clamp": 256,
    }
    assert ada["synthesis.b4.torgb"]["weight_gain"] == pytest.approx(12**-0.5)
    assert ada["synthesis"]["block_resolutions"] == [4, 8, 16]
    assert "_hooks" not in ada[""] and not any(name.startswith("_backward") for name in ada[""])
    sg3 = module_attributes(read_pickle(stream("sg3_snapshot"), "sg3")["G_ema"])
    assert sg3["synthesis.L1_36_8"]["in_size"] == [36, 36] and type(sg3["synthesis.L1_36_8"]["in_size"][0]) is int
    assert sg3["synthesis.L1_36_8"]["out_cutoff"] == 4.0


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.arange(10.0)[3:7],
        torch.arange(12.0).reshape(3, 4).t(),
        torch.tensor(2.5),
        torch.empty(0, 3),
        torch.tensor([True, False, True]),
        *(torch.arange(5).to(dtype) for dtype in (torch.float16, torch.float64, torch.bfloat16, torch.int64)),
        *(torch.arange(5).to(dtype) for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8)),
    ],
    ids=str,
)
def test_layouts_and_types(tensor):
    got = read_pickle(dumps({"x": tensor}), "x")["x"]
    assert got.dtype == tensor.dtype and got.is_contiguous() and torch.equal(got, tensor)
    assert got.untyped_storage().nbytes() == got.numel() * got.itemsize  # keeps no larger storage alive


@pytest.mark.parametrize(
    "value", [np.float64(0.1), np.float32(3), np.int64(-7), np.bool_(True), np.dtype(">f8").type(2)]
)
def test_numpy_scalars_become_numbers(value):
    got = read_pickle(dumps({"x": value}), "x")["x"]
    assert type(got) is type(value.item()) and got == value.item()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">i4", "<f8", "|u1"])
def test_numpy_arrays_honour_order(order, dtype):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    record = read_pickle(dumps(network({"table": array})), "x")
    assert module_attributes(record)[""]["table"] == array.tolist()


def test_forks_move_the_packages():
    moved = Call(Name("src.torch_utils.persistence", "_reconstruct_persistent_obj"), network({"z_dim": 4}).arguments)
    assert module_attributes(read_pickle(dumps(moved), "x"))[""]["z_dim"] == 4


def test_unknown_persistence_version_warns():
    with pytest.warns(UserWarning, match="persistence version 7"):
        assert read_pickle(dumps(network({}, version=7)), "x").version == 7


def test_source_text_is_never_executed(canary):
    source = f"import os\nos.system('touch {canary}')\n"
    with nothing_run():
        record = read_pickle(dumps(network({"z_dim": 4}, source=source)), "x")
    assert module_attributes(record)[""]["z_dim"] == 4
    assert not canary.exists() and "system" not in repr(record) and "module_src" not in record.state


def test_module_state_skips_what_a_state_dict_skips():
    weight, buffer = torch.ones(2), torch.zeros(3)
    tables = {
        "_parameters": {"w": weight, "bias": None},
        "_buffers": {"b": buffer, "none": None, "tmp": buffer},
    }
    child = network({**tables, "_non_persistent_buffers_set": {"tmp"}})
    record = read_pickle(dumps(network({"_modules": {"a": child, "gone": None}})), "x")
    assert_bit_equal(module_state(record), {"a.w": weight, "a.b": buffer})


# ---- what is refused, top level


def command_streams(canary: Path) -> dict[str, bytes]:
    text = f"touch {canary}".encode()
    short = b"\x8c" + bytes([len(text)]) + text
    binary = b"X" + len(text).to_bytes(4, "little") + text
    return {
        "GLOBAL": b"\x80\x03cos\nsystem\n" + binary + b"\x85R.",
        "GLOBAL, protocol 0": b"cos\nsystem\n(S'" + text + b"'\ntR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short + b"\x85R.",
        "INST": b"\x80\x02(" + binary + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\n" + binary + b"o.",
        "in a frame": b"\x80\x04\x95"
        + (len(short) + 16).to_bytes(8, "little")
        + b"\x8c\x02os\x8c\x06system\x93"
        + short
        + b"\x85R.",
    }


@pytest.mark.parametrize("kind", command_streams(Path("x")))
def test_commands_are_refused(kind, canary):
    data = command_streams(canary)[kind]
    pickle.loads(data)  # the stream is a real one: the standard unpickler runs it
    assert canary.exists()
    canary.unlink()
    with (
        nothing_run(),
        pytest.raises(UntrustedFileError, match=r"net\.pkl.*os\.system.*Nothing was run") as error,
    ):
        read_pickle(data, "net.pkl")
    assert not canary.exists() and error.value.exit_code == 4


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch", "FloatStorage"),  # only inside a storage
        ("torch.storage", "TypedStorage"),
        ("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__"),
        ("torch_utils.persistence", "persistent_class"),
        ("xtorch_utils.persistence", "_reconstruct_persistent_obj"),
        ("torch.nn.modules.linear", "Linear"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("collections", "Counter"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_globals_are_refused_by_name(module, name, protocol):
    with nothing_run(), pytest.raises(UntrustedFileError) as error:
        read_pickle(dumps(network({"x": Call(Name(module, name), ("1",))}), protocol), "net.pkl")
    assert f"{module}.{name}" in str(error.value)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x83\x01\x00.", "EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"\x80\x02Pdata\n.", "PERSID"),
        (b"\x80\x02K\x01Q.", "a persistent id"),
        (b"\x80\x02(cbuiltins\nset\no.", "OBJ"),
        (b"\x80\x02cdnnlib.util\nEasyDict\n)}\x92.", "NEWOBJ_EX"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "collections.OrderedDict"),
        (b"\x80\x02cdnnlib.util\nEasyDict\n)R.", "dnnlib.util.EasyDict"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x05C\x01a\x98.", "READONLY_BUFFER"),
        (b"\x80\x02}}b.", "BUILD on a dict"),
        (b"\x80\x02cdnnlib.util\nEasyDict\n)\x81}X\x05\x00\x00\x00itemsK\x01sb.", "BUILD on a dict"),
        (b"\x80\x02cbuiltins\nset\n}b.", "BUILD on a Global"),
        (dumps(Call(network({}).function, network({}).arguments, {"state": {}})), "BUILD on a Record"),
        (
            dumps(Call(tensor_call((6,), (1,)).function, tensor_call((6,), (1,)).arguments, {"data": 1})),
            "BUILD on a Tensor",
        ),
        (dumps(Call(Name("_codecs", "encode"), ("1", "rot13"))), "latin1"),
    ],
)
def test_opcodes_that_make_objects_are_refused(data, named):
    with nothing_run(), pytest.raises(UntrustedFileError, match=named):
        read_pickle(data, "net.pkl")


@pytest.mark.parametrize("place", ["magic", "object"])
def test_pickle_nested_in_a_storage_is_refused(place, canary):
    evil = command_streams(canary)["GLOBAL"]
    blob = evil if place == "magic" else storage_blob(bytes(24), 6, kind=Name("os", "system"))
    with nothing_run(), pytest.raises(UntrustedFileError, match=r"os\.system"):
        read_pickle(dumps(network({"x": tensor_call((6,), (1,), blob=blob)})), "net.pkl")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["_reconstruct_persistent_obj", "_rebuild_tensor_v2"])
def test_storages_have_a_smaller_allow_list(name):
    blob = dumps(Call(Name("torch_utils.persistence" if "persistent" in name else "torch._utils", name), ()), 2)
    with pytest.raises(UntrustedFileError, match=name):
        read_pickle(dumps(tensor_call((6,), (1,), blob=blob)), "net.pkl")


def test_global_names_are_made_printable():
    with pytest.raises(UntrustedFileError) as error:
        read_pickle("\x80\x02cos\x1b[2J\nüsystem\n.".encode().replace(b"\xc2\x80", b"\x80"), "net.pkl")
    assert "\x1b" not in str(error.value) and str(error.value).isascii()


# ---- what is damaged, too large or of another kind


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((7,), (1,), 0),
        ((2, 3), (4, 1), 0),
        ((6,), (1,), 1),
        ((1 << 40,), (0,), 0),
        ((1 << 31, 1 << 31, 4), (0, 0, 0), 0),
        ((2,), (1 << 62,), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 3),
        ((2,), (1,), -1),
        ((2, 3), (1,), 0),
        ((1,) * 17, (1,) * 17, 0),
        ((2.0,), (1,), 0),
        ((True,), (1,), 0),
        (6, (1,), 0),
        ((1 << 70,), (0,), 0),
    ],
)
def test_tensors_stay_inside_their_storage(size, stride, offset):
    with pytest.raises(CheckpointError, match=r"a tensor (larger|without|whose)"):
        read_pickle(dumps(tensor_call(size, stride, offset)), "net.pkl")


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (storage_blob(bytes(24), 1 << 50), "wrong length"),
        (storage_blob(bytes(24), 7), "wrong length"),
        (storage_blob(bytes(24), 6, stated=1 << 50), "two lengths differ"),
        (storage_blob(bytes(23), 6), "wrong length"),
        (storage_blob(bytes(24), 6, keys=["0", "1"]), "one block"),
        (storage_blob(bytes(24), 6)[:-40], "damaged|differ"),
        (storage_blob(bytes(24), 6).replace(b"\x88", b"\x89"), "big-endian"),
        (b"", "EOFError"),
        (dumps(1, 2) * 3, "no torch file"),
    ],
)
def test_storages_hold_exactly_their_data(blob, message):
    with pytest.raises(CheckpointError, match=message):
        read_pickle(dumps(tensor_call((6,), (1,), blob=blob)), "net.pkl")


def test_bytes_of_a_bool_storage_are_normalised():
    blob = storage_blob(b"\x02\x00\xff", 3, kind=Name("torch", "BoolStorage"))
    got = read_pickle(dumps(tensor_call((3,), (1,), blob=blob)), "x")
    assert got.view(torch.uint8).tolist() == [1, 0, 1]


def repeated(call: Call, times: int) -> bytes:
    """A list of `times` results of one call whose arguments are written once and referred to."""
    return dumps([Call(call.function, call.arguments) for _ in range(times)])


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (
            Call(Name("torch.storage", "_load_from_bytes"), (storage_blob(bytes(1 << 16), 1 << 14),)),
            "storages",
        ),
        (tensor_call((128, 128), (1, 128), blob=storage_blob(bytes(1 << 16), 1 << 14)), "tensors"),
        (Call(Name("_codecs", "encode"), ("a" * (1 << 16), "latin1")), "byte strings"),
    ],
)
def test_memoised_data_cannot_be_multiplied(call, kind):
    assert len(read_pickle(repeated(call, 1), "x")) == 1
    with pytest.raises(CheckpointError, match=f"{kind} would take more memory"):
        read_pickle(repeated(call, 100), "net.pkl")


@pytest.mark.parametrize(
    "state",
    [
        (1, (1 << 40,), np.dtype("f8"), False, b"12345678"),
        (1, (-1,), np.dtype("f8"), False, b"12345678"),
        (1, (1,), Call(Name("numpy", "dtype"), ("O8", False, True)), False, b"12345678"),
        (1, (1,), "f8", False, b"12345678"),
        (1, (1,), np.dtype("f8"), False, [1.0]),
        (1,),
        None,
    ],
)
def test_numpy_arrays_are_checked(state):
    array = Call(Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b"), state)
    data = dumps({"x": array}) if state else dumps({"x": array})[:-2] + b"Nbs."
    with pytest.raises(CheckpointError):
        read_pickle(data, "net.pkl")


NESTED_KEY = b"\x80\x02}(" + b")" + b"\x85" * 300_000 + b"K\x01u."


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html>",
        b"\x80\x03",
        b"\x80\x09.",
        b"\x80\x02.",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02j\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x02}]K\x02s.",
        NESTED_KEY,
        b"\x00\x01\x00\x00\x00\x00\x00\x00{",
        b"PK\x03\x04",
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c",
        dumps(Call(network({}).function, ({"type": "class"},))),
        dumps(Call(network({}).function, ("meta",))),
        dumps(Call(network({}).function, ())),
    ],
    ids=range(21),
)
def test_damaged_streams_are_checkpoint_errors(data):
    with pytest.raises(CheckpointError, match=r"net\.pkl"):
        read_pickle(data, "net.pkl")


@pytest.mark.parametrize("name", ["sg2ada_snapshot", "sg3_snapshot"])
def test_truncated_snapshots(name):
    data = stream(name)
    for end in range(0, len(data) - 1, len(data) // 60):
        with pytest.raises(CheckpointError):
            read_pickle(data[:end], name)


def test_tensorflow_pickles_are_named():
    data = dumps((Call(Name("dnnlib.tflib.network", "Network"), ()),))
    with pytest.raises(CheckpointError, match=r"TensorFlow-era.*legacy\.py"):
        read_pickle(data, "ffhq.pkl")


def test_opcodes_are_counted(monkeypatch):
    monkeypatch.setattr(pickle_limits, "MAX_OPCODES", 1000)
    with pytest.raises(CheckpointError, match="1000 pickle opcodes"):
        read_pickle(b"\x80\x02" + b"N0" * 600 + b"N.", "net.pkl")
    one_list = ["a"] * 300
    sets = [Call(Name("builtins", "set"), (one_list,)) for _ in range(5)]
    with pytest.raises(CheckpointError, match="1000 pickle opcodes"):
        read_pickle(dumps(sets), "net.pkl")


def test_texts_are_limited(monkeypatch):
    monkeypatch.setattr(restricted_unpickler, "MAX_STRING_BYTES", 10)
    with pytest.raises(CheckpointError, match="a text of 11 bytes"):
        read_pickle(dumps("a" * 11), "net.pkl")


# ---- walking the records


def cyclic() -> Call:
    children: dict = {}
    root = network({"_modules": children})
    children["self"] = root
    return root


def nested(levels: int) -> Call:
    record = network({})
    for _ in range(levels):
        record = network({"_modules": {"a": record}})
    return record


def doubled(levels: int, leaf: object, wrap) -> object:
    for _ in range(levels):
        leaf = wrap(leaf)
    return leaf


SHARED = network({})
LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (network({"_modules": {"a": SHARED, "b": SHARED}}), "b occurs twice"),
        (doubled(34, network({}), lambda x: network({"_modules": {"a": x, "b": x}})), "occurs twice|levels"),
        (nested(33), "32 levels"),
        (network({"_modules": {"a": 1}}), "a is a int"),
        (network({"_modules": []}), "no _modules"),
        (network({"_parameters": None}), "no _parameters"),
        (network({"_parameters": {"w": "text"}}), "w is a str"),
        (network({"_parameters": {3: None}}), "names that no module"),
        (network({"_parameters": {"a" * 201: None}}), "names that no module"),
        (network({"_parameters": {str(i): None for i in range(1001)}}), "no _"),
        (network({"_parameters": {"w": torch.ones(1)}, "_buffers": {"w": torch.ones(1)}}), "w occurs twice"),
        (network({"_non_persistent_buffers_set": 5}), "not a set"),
    ],
    ids=range(12),
)
def test_walks_stop_at_what_is_no_network(record, message):
    with pytest.raises(CheckpointError, match=message):
        module_state(read_pickle(dumps(record), "net.pkl"))


def memo_cycle() -> bytes:
    """A record whose `_modules` table holds the record itself: filled after the record was made."""
    data = dumps([modules := {}, network({"_modules": modules})])
    assert data.endswith((b"e.", b"a."))
    table = next(arg for op, arg, _ in pickletools.genops(data) if op.name == "BINPUT" and arg == 1)
    record = max(arg for op, arg, _ in pickletools.genops(data) if op.name in ("BINPUT", "MEMOIZE"))
    return (
        data[:-1]
        + b"0h"
        + bytes([table])
        + b"X\x04\x00\x00\x00selfh"
        + bytes([record])
        + b"s0h"
        + bytes([record])
        + b"."
    )


def test_walks_stop_at_cycles():
    record = read_pickle(memo_cycle(), "net.pkl")
    assert record.state["_modules"]["self"] is record
    for walk in (module_state, module_attributes):
        with pytest.raises(CheckpointError, match="self occurs twice"):
            walk(record)
    assert "Generator" in repr(record)


def test_depth_of_32_is_read():
    assert module_state(read_pickle(dumps(nested(32)), "x")) == {}


def test_modules_and_tensors_are_counted(monkeypatch):
    record = read_pickle(dumps(network({"_modules": {str(i): network({}) for i in range(20)}})), "x")
    monkeypatch.setattr(persistence, "MAX_MODULES", 10)
    with pytest.raises(CheckpointError, match="10 modules"):
        module_state(record)
    monkeypatch.setattr(persistence, "MAX_TENSORS", 2)
    shared = torch.ones(1)
    with pytest.raises(CheckpointError, match="2 tensors"):
        module_state(read_pickle(dumps(network({"_buffers": {str(i): shared for i in range(3)}})), "x"))


@pytest.mark.parametrize(
    "value",
    [
        doubled(40, [], lambda x: [x]),
        doubled(31, ["a"], lambda x: [x, x]),
        doubled(31, {"a": 1}, lambda x: {"a": x, "b": x}),
        LOOP,
    ],
    ids=["deep", "doubled lists", "doubled dicts", "loop"],
)
def test_attributes_cannot_be_multiplied(value):
    record = read_pickle(dumps(network({"value": value})), "net.pkl")
    with pytest.raises(CheckpointError, match="nest too deeply or are too many"):
        module_attributes(record)


def test_attributes_that_are_no_plain_data_are_left_out():
    state = {"a": 1, "t": torch.ones(1), "l": [1, torch.ones(1)], "s": {"x"}, "n": network({}), "_hooks": {}}
    record = read_pickle(dumps(network({**state, "_init_args": (1, None)})), "x")
    assert module_attributes(record) == {"": {"a": 1, "_init_args": (1, None)}}


# ---- torch files


def torch_zip(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def pti_entries() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(stream("pti_style_pt"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def linked() -> bytes:
    file = io.BytesIO(torch_zip(pti_entries()))
    with zipfile.ZipFile(file, "a") as archive:
        link = zipfile.ZipInfo("archive/data/99")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return file.getvalue()


def overlapping() -> bytes:
    """A directory whose entries claim more bytes than the file has."""
    data = torch_zip({"a/data.pkl": b"N.", "a/data/0": b"0" * 100})
    return data.replace((100).to_bytes(4, "little") * 2, (10**6).to_bytes(4, "little") * 2)


BAD_ZIPS = {
    "bomb": (
        lambda: torch_zip({"a/data.pkl": b"N.", "a/data/0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "parent": (lambda: torch_zip({"a/data.pkl": b"N.", "a/../../x": b"1"}), "unsafe"),
    "absolute": (lambda: torch_zip({"a/data.pkl": b"N.", "/etc/x": b"1"}), "unsafe"),
    "twice": (lambda: torch_zip({"a/data.pkl": b"N.", "a//data.pkl": b"N."}), "repeated"),
    "two roots": (lambda: torch_zip({"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "without data.pkl"),
    "link": (linked, "a link"),
    "overlap": (overlapping, "larger than the file"),
    "no torch file": (lambda: torch_zip({"word/document.xml": b"1"}), "without data.pkl"),
    "big endian": (lambda: torch_zip({"a/data.pkl": b"N.", "a/byteorder": b"big"}), "big-endian"),
    "truncated": (lambda: stream("pti_style_pt")[:-200], "no complete zip"),
    "flipped": (lambda: torch_zip(pti_entries()).replace(b"synthesis", b"syntheses"), "CRC"),
}


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_bad_zips_are_refused(kind, pt):
    make, message = BAD_ZIPS[kind]
    path = pt(make())
    with pytest.raises(CheckpointError, match=rf"(?s)net\.pt.*{message}"):
        read_torch_contents(path)


def test_zip_directories_are_limited_before_they_are_parsed(pt, monkeypatch):
    monkeypatch.setattr(torch_zip_module, "MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(CheckpointError, match="too many entries"):
        read_torch_contents(pt(stream("pti_style_pt")))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"archive/data/0": bytes(767)}, CheckpointError, "wrong length"),
        ({"archive/data/0": None}, CheckpointError, "no entry for storage 0"),
        ({"archive/data.pkl": b"\x80\x02cos\nsystem\n."}, UntrustedFileError, r"os\.system"),
        (
            {"archive/data.pkl": dumps(PersistentId(("storage", 1, "0", "cpu", 1)), 2)},
            CheckpointError,
            "type",
        ),
        ({"archive/data.pkl": dumps(PersistentId("data/0"), 2)}, CheckpointError, "description"),
    ],
)
def test_bad_modules_are_refused(change, error, message, pt):
    entries = {name: data for name, data in {**pti_entries(), **change}.items() if data is not None}
    with nothing_run(), pytest.raises(error, match=message):
        read_torch_contents(pt(torch_zip(entries)))


@pytest.mark.parametrize("key", ["../0", "", "0/..", "٣"])
def test_storage_keys_cannot_leave_the_data_folder(key, pt):
    reference = PersistentId(("storage", Name("torch", "FloatStorage"), key, "cpu", 1))
    with pytest.raises(CheckpointError, match="no entry for storage"):
        read_torch_contents(pt(torch_zip({"a/data.pkl": dumps(reference, 2), "a/0": bytes(4)})))


@pytest.mark.parametrize("as_zip", [True, False])
def test_torch_dicts_are_read(as_zip, tmp_path):
    path = tmp_path / "rosinality.pt"
    state = {"style.1.weight": torch.arange(6.0).reshape(2, 3), "latent_avg": torch.ones(3)}
    saved = {"g_ema": state, "args": argparse.Namespace(size=16), "ada_aug_p": 0.5}
    torch.save(saved, path, _use_new_zipfile_serialization=as_zip)
    contents = read_torch_file(path)
    assert_bit_equal(contents["g_ema"], state)
    assert contents["args"].size == 16


class Command:
    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("evil", ["command", "counter"])
def test_torch_dicts_with_other_globals_are_refused(evil, as_zip, tmp_path, canary):
    value = Command(f"touch {canary}") if evil == "command" else collections.deque()
    torch.save({"g_ema": value}, tmp_path / "net.pt", _use_new_zipfile_serialization=as_zip)
    named = os.system.__module__ + r"\.system" if evil == "command" else r"collections\.deque"
    with pytest.raises(UntrustedFileError, match=rf"net\.pt.*{named}.*Nothing was run"):
        read_torch_file(tmp_path / "net.pt")
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("data", [b"", b"text", b"\x80\x02", pickle.dumps([1], 2), stream("sg2ada_snapshot")[:5000]])
def test_other_files_are_checkpoint_errors(data, pt):
    with pytest.raises(LatentoptError, match=r"net\.pt"):
        read_torch_file(pt(data))
    with pytest.raises(CheckpointError, match=r"net\.pt"):
        read_torch_contents(pt(data))


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_torch_file(tmp_path / "net.pt")


@pytest.mark.parametrize("read", [read_torch_file, read_torch_contents])
def test_missing_files(read, tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt"):
        read(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError):
        read(tmp_path)


# ---- mutations of valid files


def legacy() -> bytes:
    """The format of before torch 1.6: pickles one after the other, then the numbers."""
    file, weight = io.BytesIO(), torch.arange(6.0).reshape(2, 3)
    contents = {"g_ema": {"a": weight, "b": weight.T, "c": torch.ones(2, dtype=torch.float16)}, "n": np.float64(1)}
    torch.save(contents, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def test_old_torch_files_are_read(pt):
    contents = read_torch_contents(pt(legacy()))
    assert_bit_equal(contents["g_ema"], torch.load(io.BytesIO(legacy()), weights_only=False)["g_ema"])
    assert contents["n"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-3], "wrong length"),
        (lambda data: data[:60], "damaged"),
        (lambda data: data.replace(b"\x06\0\0\0\0\0\0\0", b"\xff" * 8), "two lengths differ"),
        (lambda data: data.replace(b"K\x06", b"M\xff\xff"), "more memory than the file|wrong length"),
        (lambda data: data.replace(b"\x88", b"\x89", 1), "big-endian"),
    ],
)
def test_damaged_old_torch_files(change, message, pt):
    assert change(legacy()) != legacy()
    with pytest.raises(CheckpointError, match=message):
        read_torch_contents(pt(change(legacy())))


@pytest.mark.parametrize("repeats", [(2, 3), (1 << 12, 1 << 12), (1 << 16, 1 << 16)])
def test_numbers_may_be_repeated_within_bounds(repeats, pt):
    """What `expand` makes: read as a view; refused where it would be larger than a gigabyte."""
    file = io.BytesIO()
    torch.save({"a": torch.ones(1, 1).expand(*repeats)}, file)
    path = pt(file.getvalue())
    if repeats[0] == 1 << 16:
        with pytest.raises(CheckpointError, match="larger than its storage"):
            read_torch_contents(path)
    else:
        found = read_torch_contents(path)["a"]
        assert found.shape == repeats and found.untyped_storage().nbytes() == 4


STREAMS = {
    "ada": stream("sg2ada_snapshot"),
    "sg3": stream("sg3_snapshot"),
    "protocol 5": dumps(read_pickle(stream("sg3_snapshot"), "sg3")["G_ema"], 5, "_core"),
    "pti": pti_entries()["archive/data.pkl"],
    "legacy": legacy(),
}
OPCODES = {name: [at for _, _, at in pickletools.genops(data)] for name, data in STREAMS.items() if name != "legacy"}
OPCODES["legacy"] = list(range(0, len(STREAMS["legacy"]), 5))
SPLICES = [
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"\x85R",
    b"b",
    b"}",
    b"h\x00",
    b"Q",
    b"0",
    b"(",
    b"t",
    b"\x81",
    b"u",
    b"\xff" * 8,
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid stream with one to four flips, deletions or insertions, half of them at an opcode."""
    name = draw(st.sampled_from(sorted(STREAMS)))
    data = bytearray(STREAMS[name])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.one_of(st.sampled_from(OPCODES[name]), st.integers(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "delete", "splice", "copy"]))
        if kind == "flip":
            data[min(at, len(data) - 1)] = draw(st.integers(0, 255))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 20))]
        elif kind == "splice":
            data[at:at] = draw(st.sampled_from(SPLICES))
        else:
            start = draw(st.sampled_from(OPCODES[name]))
            data[at:at] = data[start : start + draw(st.integers(1, 400))]
    return name, bytes(data)


@settings(max_examples=800, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_mutations_run_nothing_and_raise_only_our_errors(case):
    name, data = case
    with nothing_run(), contextlib.suppress(CheckpointError, UntrustedFileError):
        result = read_mutated_file(name, data) if name in ("pti", "legacy") else read_pickle(data, name)
        for record in result.values() if isinstance(result, dict) else [result]:
            if isinstance(record, Record):
                module_state(record)
                module_attributes(record)


def read_mutated_file(name: str, data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.pt")
        path.write_bytes(torch_zip({**pti_entries(), "archive/data.pkl": data}) if name == "pti" else data)
        return read_torch_contents(path)
