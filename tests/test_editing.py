"""Finding directions, mixing, interpolation, and edits as they are written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator

from latentopt.editing.direction import Direction
from latentopt.editing.ganspace import find_ganspace
from latentopt.editing.interfacegan import find_interfacegan, fit_hyperplane, independent_of
from latentopt.editing.labels import Labelled, folder_labels, read_labels, seed_codes, table_labels
from latentopt.editing.latents import LONGEST_NAME, Latent, file_name
from latentopt.editing.layers import layers_text, parse_layers
from latentopt.editing.mixing import interpolate, mix, split_row
from latentopt.editing.pictures import save_samples, there_and_back
from latentopt.editing.scaling import sample_codes
from latentopt.editing.sefa import factorize, find_sefa, style_weights
from latentopt.editing.sequence import Edit, apply_edits, choose, parse_edit, parse_sweep
from latentopt.editing.sequences import Sequences
from latentopt.editing.spaces import EditingSpace
from latentopt.editing.work import edit_latents
from latentopt.errors import CheckpointError, ImageError, UsageError
from latentopt.parameterizations.constraint import PNormConstraint
from latentopt.parameterizations.pnorm import Whitened
from latentopt.pictures.images import read_png, save_png
from latentopt.registry import COORDINATES
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.statistics.sampling import sample_images
from latentopt.types import REPLACES, GeneratorInputs


@pytest.fixture(scope="module")
def pnorm(tiny_generator):
    return fit_pnorm(tiny_generator, 4000, batch=1000)


# ---- hyperplanes


def planted(n=4000, dim=6, seed=0):
    """Samples [n,dim], and labels that grow along two directions that are not orthogonal."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=rng, dtype=torch.float64)
    first, second = torch.eye(dim, dtype=torch.float64)[0], torch.tensor([0.6, 0.8, *[0.0] * (dim - 2)]).double()
    noise = 0.1 * torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return x, torch.stack([x @ first, x @ second], dim=1) + noise, first, second


@pytest.mark.parametrize("threshold", [None, 0.0, 0.5])
def test_hyperplane_finds_what_was_planted(threshold):
    x, labels, first, _ = planted()
    plane = fit_hyperplane(x * 40 + 3, labels[:, 0], threshold)
    assert plane.normal @ first > 0.99
    assert plane.score > 0.93
    assert fit_hyperplane(x, -labels[:, 0]).normal @ first < -0.99


def test_held_out_accuracy_of_noise_is_a_guess():
    x, _, _, _ = planted()
    labels = torch.rand(len(x), generator=torch.Generator().manual_seed(5))
    assert 0.4 < fit_hyperplane(x, labels).score < 0.6
    assert 0.4 < fit_hyperplane(x, labels, 0.9).score < 0.6  # balanced: 0.9 would be no achievement


@pytest.mark.parametrize(
    ("labels", "threshold"), [(torch.zeros(100), None), (torch.zeros(100), 0.5), (torch.eye(100)[0], 0.5)]
)
def test_labels_without_two_sides(labels, threshold):
    with pytest.raises(UsageError, match="of each at least"):
        fit_hyperplane(torch.randn(100, 4).double(), labels, threshold)


def test_independent_of():
    _, _, first, second = planted()
    normal = independent_of(first, [second])
    assert abs(normal @ second) < 1e-9 and normal @ first > 0
    assert normal.norm().item() == pytest.approx(1)
    assert torch.equal(independent_of(first * 7, []), first)
    with pytest.raises(UsageError, match="nothing is left"):
        independent_of(first, [first * 2, second])


@pytest.mark.parametrize("space", list(COORDINATES))
@pytest.mark.parametrize(
    ("condition", "conditions"),
    [("none", []), ("all", ["b"]), ("entangled", ["b"]), (["b"], ["b"]), ({"a": ["b"]}, ["b"]), ({}, [])],
)
def test_interfacegan_moves_its_attribute_and_not_the_conditions(tiny_generator, pnorm, space, condition, conditions):
    """Independent of b: it crosses no plane of b, and moves b, which is linear in the coordinates here, the less.

    In W, whose samples spread very unevenly, the plane is not quite where b grows.
    """
    where = EditingSpace(space, tiny_generator, pnorm)
    codes = where.sample(3000, 1)
    x = where.coordinates(codes)
    rng = torch.Generator().manual_seed(2)
    a = torch.randn(x.shape[1], generator=rng, dtype=torch.float64)
    b = a + 0.8 * torch.randn(x.shape[1], generator=rng, dtype=torch.float64)
    labelled = Labelled(codes, ("a", "b"), torch.stack([x @ a, x @ b], dim=1), about={"judge": "planted"})
    found = find_interfacegan(labelled, where, names=["a"], condition=condition, layers=None)
    assert [d.name for d in found] == ["a"]
    direction = found[0]
    assert direction.about["independent_of"] == conditions
    assert direction.about["judge"] == "planted" and direction.score > 0.8 and direction.space == space
    start = codes[:50] if codes.ndim == 3 else tiny_generator.broadcast(codes[:50])
    moved = where.coordinates(direction.edit(GeneratorInputs(start), 1).ws) - where.coordinates(start)
    assert (moved @ a > 0).all()
    plane = fit_hyperplane(x, x @ b)
    across = (moved @ plane.normal).mean() / moved.norm(dim=1).mean()
    drift = (moved @ b).mean() / (moved @ a).mean()
    if conditions:
        free = find_interfacegan(labelled, where, names=["a"], condition="none")[0]
        freely = where.coordinates(free.edit(GeneratorInputs(start), 1).ws) - where.coordinates(start)
        assert across.abs() < 1e-3
        assert space == "w" or drift.abs() < 0.6 * (freely @ b).mean() / (freely @ a).mean()
    else:
        assert across > 0.3 and drift > 0.5


def test_entangled_conditions_are_no_more_than_needed(tiny_generator, pnorm):
    """b lies between a and c: once c is projected out, b is not in the way any more, d never was."""
    where = EditingSpace("p-norm", tiny_generator, pnorm)
    codes = where.sample(3000, 1)
    x = where.coordinates(codes)
    e = torch.eye(16, dtype=torch.float64)
    normals = {"a": e[0] + 0.9 * e[1], "b": 0.25 * e[0] + e[1] + e[2], "c": e[1], "d": e[3]}
    labelled = Labelled(codes, tuple(normals), torch.stack([x @ n for n in normals.values()], dim=1))
    assert find_interfacegan(labelled, where, names=["a"])[0].about["independent_of"] == ["c"]
    assert find_interfacegan(labelled, where, names=["d"])[0].about["independent_of"] == []
    assert find_interfacegan(labelled, where, names=["a"], condition="all")[0].about["independent_of"] == [
        "b",
        "c",
        "d",
    ]


def test_strength_in_p_norm_is_the_whitened_unit(tiny_generator, pnorm):
    where = EditingSpace("p-norm", tiny_generator, pnorm)
    normal = torch.randn(16, generator=torch.Generator().manual_seed(0))
    w = sample_codes(tiny_generator, 0, 20)
    moved = where.direction("x", normal).edit(GeneratorInputs(tiny_generator.broadcast(w)), 1.5).ws[:, 4]
    step = pnorm.whiten(moved.double()) - pnorm.whiten(w.double())
    assert torch.allclose(step, (1.5 * normal / normal.norm()).double().expand(20, -1), atol=1e-3)


def test_interfacegan_refuses(tiny_generator):
    where = EditingSpace("w", tiny_generator)
    labelled = Labelled(where.sample(100, 0), ("smile", "flat"), torch.rand(100, 2) * torch.tensor([1.0, 0.0]))
    with pytest.raises(UsageError, match="did you mean 'smile'"):
        find_interfacegan(labelled, where, names=["smil"])
    with pytest.raises(UsageError, match="no labels for 'other'"):
        find_interfacegan(labelled, where, names=["smile"], condition=["other"])
    with pytest.raises(UsageError, match="condition 'everything'"):
        find_interfacegan(labelled, where, condition="everything")
    with pytest.raises(UsageError, match="flat: "):
        find_interfacegan(labelled, where)
    assert find_interfacegan(labelled, where, names=["smile"], condition="all")  # flat has no plane to cross
    for name, message in (("z", "known: p-norm, w, w\\+"), ("p-norm", "latentopt fit-pnorm")):
        with pytest.raises(UsageError, match=message):
            EditingSpace(name, tiny_generator)


# ---- labels


class Redness:
    def read(self, image):
        return torch.stack([image[:, 0].mean(dim=(1, 2)), (image[:, 1].mean(dim=(1, 2)) > 0).float()], dim=1)


@pytest.mark.parametrize("mixed", [False, True])
def test_labels_are_read_off_the_pictures(tiny_generator, mixed):
    codes, seen = sample_codes(tiny_generator, 0, 30, mixed), []
    labelled = read_labels(
        tiny_generator, codes, Redness(), ("red", "green"), ("green",), batch=7, on_progress=seen.append, judge="x"
    )
    ws = codes if mixed else tiny_generator.broadcast(codes)
    expected = Redness().read(tiny_generator.synthesis(GeneratorInputs(ws)).clamp(-1, 1))
    assert torch.allclose(labelled.values, expected, atol=1e-5)
    assert labelled.thresholds == {"green": 0.5} and labelled.about == {"judge": "x"} and sum(seen) == 30


def test_a_table_of_sample_pictures(tmp_path, tiny_generator):
    table = tmp_path / "labels.csv"
    table.write_text("picture,smile,age\nseed0003.png,1,20.5\nseed0007,0,\nSEED0009.PNG,1,60\n")
    labelled = table_labels(table, tiny_generator, psi=0.5)
    assert labelled.names == ("smile", "age")
    assert labelled.thresholds["smile"] == 0.5
    assert labelled.values[1, 1].isnan() and labelled.values[2].tolist() == [1, 60]
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 16)).float()
    expected = torch.lerp(tiny_generator.w_avg, tiny_generator.mapping(z)[0], 0.5)
    assert torch.allclose(labelled.codes[1], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("picture,smile\n", "expected a first line"),
        ("picture\nseed1\n", "expected a first line"),
        ("picture,smile,smile\nseed1,1,2\n", "expected a first line"),
        ("picture,smile\nseed1,1,2\n", "row 2 has 3 cells"),
        ("picture,smile\nseed1,much\n", "no number"),
        ("picture,smile\nseed1,inf\n", "not finite"),
        ("picture,smile\nanna.png,1\n", "neither a sample"),
    ],
)
def test_tables_that_are_none(tmp_path, tiny_generator, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((CheckpointError, UsageError), match=message):
        table_labels(tmp_path / "t.csv", tiny_generator)


def test_two_folders_of_sample_pictures(tmp_path, tiny_generator):
    for folder, seeds in (("yes", (1, 5)), ("no", (2,))):
        for seed in seeds:
            (tmp_path / folder).mkdir(exist_ok=True)
            save_png(tmp_path / folder / f"seed{seed:04d}.png", torch.zeros(3, 4, 4))
    labelled = folder_labels(tmp_path / "yes", tmp_path / "no", tiny_generator, "tabby", psi=0.7)
    assert labelled.names == ("tabby",) and labelled.values[:, 0].tolist() == [1, 1, 0]
    assert torch.allclose(labelled.codes, seed_codes(tiny_generator, [1, 5, 2], 0.7), atol=1e-6)
    (tmp_path / "no" / "cat.png").touch()
    for less, message in (("no", "cat.png is not"), ("none", "no such folder")):
        with pytest.raises(UsageError, match=message):
            folder_labels(tmp_path / "yes", tmp_path / less, tiny_generator, "tabby")


# ---- components


def test_ganspace_of_w_is_its_pca(tiny_generator):
    found = find_ganspace(EditingSpace("w", tiny_generator), components=3, samples=5000, seed=4)
    w = sample_codes(tiny_generator, 4, 5000).double().numpy()
    _, std, vectors = np.linalg.svd(w - w.mean(axis=0), full_matrices=False)
    for i, direction in enumerate(found):
        cosine = direction.vector.double().numpy() @ vectors[i] / np.linalg.norm(direction.vector)
        assert abs(cosine) == pytest.approx(1, abs=1e-3)
        assert direction.vector.norm().item() == pytest.approx(std[i] / np.sqrt(4999), rel=0.05)
        assert direction.about["variance"] == pytest.approx(std[i] ** 2 / (std**2).sum(), rel=1e-6)


def test_ganspace_of_p_norm_are_the_components_of_p(tiny_generator, pnorm):
    found = find_ganspace(EditingSpace("p-norm", tiny_generator, pnorm), components=2, layers=(0, 1))
    assert torch.allclose(found[1].vector, (pnorm.components[1] * pnorm.std[1]).float(), atol=1e-5)
    assert found[0].space == "p-norm" and found[0].layers == (0, 1)


def test_ganspace_of_a_layer_moves_that_layer(tiny_generator):
    """Its first component moves the layer's output more than a random direction of the same strength does."""
    where, name = EditingSpace("w", tiny_generator), "b8.conv0"
    first = find_ganspace(where, components=2, samples=1000, layer=name)[0]
    start = GeneratorInputs(tiny_generator.broadcast(sample_codes(tiny_generator, 9, 20)))
    plain = tiny_generator.features(start, [name])[1][name]

    def moved(direction):
        return (tiny_generator.features(direction.edit(start, 1), [name])[1][name] - plain).norm().item()

    rng = torch.Generator().manual_seed(0)
    others = [moved(where.direction("r", torch.randn(16, generator=rng))) for _ in range(8)]
    assert moved(first) > max(others)


def test_components_that_are_not_there(tiny_generator, pnorm):
    w, p, plus = (EditingSpace(name, tiny_generator, pnorm) for name in ("w", "p-norm", "w+"))
    cases = [
        (lambda: find_ganspace(plus), "w or p-norm"),
        (lambda: find_ganspace(w, components=17), "1 to 16"),
        (lambda: find_ganspace(w, samples=20), "too few"),
        (lambda: find_ganspace(w, samples=600, layer="b99"), "no layer 'b99'"),
        (lambda: find_ganspace(p, layer="b8"), "--space w"),
        (lambda: find_sefa(p), "--space w"),
        (lambda: find_sefa(w, components=0), "1 to 16"),
        (lambda: find_sefa(w, layers=(9,)), "rows 0 to 7"),
    ]
    for find, message in cases:
        with pytest.raises(UsageError, match=message):
            find()


def test_sefa_is_the_authors_factorisation(tiny_generator):
    """Against numpy as in genforce/sefa: columns of the joined, transposed weights at length 1, then eig of A A^T."""
    parts = [
        tiny_generator.get_parameter(f"synthesis.{name}.affine.weight").numpy().T
        for name in ("b8.conv0", "b8.conv1", "b16.conv0")
    ]
    weight = np.concatenate(parts, axis=1).astype(np.float64)
    weight = weight / np.linalg.norm(weight, axis=0, keepdims=True)
    values, vectors = np.linalg.eig(weight @ weight.T)
    best = vectors[:, values.argmax()].real
    found = find_sefa(EditingSpace("w", tiny_generator), components=2, layers=(1, 2, 3))
    cosine = found[0].vector.double().numpy() @ best / np.linalg.norm(found[0].vector)
    assert abs(cosine) == pytest.approx(1, abs=1e-5)
    assert found[0].layers == (1, 2, 3)


def test_sefa_factorises_every_convolution_and_the_last_torgb(tiny_generator):
    """8 rows: 7 convolutions of 12, 12, 12, 12, 10, 10, 8 ... style channels, and the toRGB of 6."""
    names = [*tiny_generator.synthesis.layers, "b32.torgb"]
    channels = [len(tiny_generator.get_parameter(f"synthesis.{name}.affine.weight")) for name in names]
    assert style_weights(tiny_generator).shape == (sum(channels), 16)
    values, vectors = factorize(style_weights(tiny_generator))
    assert (values.diff() <= 0).all()
    assert torch.allclose(vectors @ vectors.T, torch.eye(16, dtype=torch.float64), atol=1e-9)


# ---- layers


@pytest.mark.parametrize("row", range(8))
def test_row_of_names_the_layers_that_a_row_drives(tiny_generator, tiny_inputs, row):
    """With one row moved, no layer of a lower row changes, and every convolution of that row does."""
    names = [*tiny_generator.noise_shapes, *(f"b{4 << i}.img" for i in range(4))]
    ws = tiny_inputs.ws.clone()
    ws[:, row] += 1
    _, before = tiny_generator.features(tiny_inputs, names)
    _, after = tiny_generator.features(GeneratorInputs(ws), names)
    for name in names:
        changed = not torch.equal(before[name], after[name])
        assert changed == (tiny_generator.row_of(name) >= row), name


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("b4.conv1", 0),
        ("synthesis.b4.const", 0),
        ("synthesis.b4.torgb.weight", 1),
        ("b8.conv0", 1),
        ("synthesis.b8.conv1.affine.bias", 2),
        ("b1024.conv0", 15),
        ("b1024.conv1", 16),
        ("b1024.torgb", 17),
        ("b16", 4),
        ("other", None),
    ],
)
def test_rows_of_names(name, row, tiny_generator):
    assert tiny_generator.row_of(name) == row


@pytest.mark.parametrize(
    ("text", "rows", "again"),
    [("0-2", (0, 1, 2), "0-2"), ("3", (3,), "3"), (" 5, 0-1 ", (0, 1, 5), "0-1,5"), ("2-2,1", (1, 2), "1-2")],
)
def test_layers_are_read_and_written(text, rows, again):
    assert parse_layers(text) == rows
    assert layers_text(rows) == again
    assert layers_text(None) == "all"


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "0-", "1,,2", "0-1000"])
def test_no_layers(text):
    with pytest.raises(UsageError, match="no layers"):
        parse_layers(text)


# ---- edits as they are written


@pytest.mark.parametrize(
    ("text", "edit", "label"),
    [
        ("smile=+2", Edit("smile", 2.0), "smile+2"),
        ("yaw=-1.5", Edit("yaw", -1.5), "yaw-1.5"),
        ("hair-length = .5@0-3", None, None),
        ("hair-length=.5@0-3", Edit("hair-length", 0.5, (0, 1, 2, 3)), "hair-length+0.5@0-3"),
        ("age=1e1", Edit("age", 10.0), "age+10"),
        ("smile", None, None),
        ("smile=", None, None),
        ("=2", None, None),
        ("smile=2@", None, None),
        ("smile=2@x", None, None),
        ("smile=nan", None, None),
        ("smile=1e999", None, None),
        ("smile=-2..2", None, None),
    ],
)
def test_edits(text, edit, label):
    if edit is None:
        with pytest.raises(UsageError):
            parse_edit(text)
    else:
        assert parse_edit(text) == edit
        assert parse_edit(text).label == label


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("yaw=-2..2", [-2, -1, 0, 1, 2]),
        ("yaw=0..+1:3@4", [0, 0.5, 1]),
        ("yaw=1..-1:2", [1, -1]),
        ("yaw=-2..2:1", None),
        ("yaw=-2..2:1001", None),
        ("yaw=-2..", None),
        ("yaw=2", None),
        ("yaw=0..1e999", None),
    ],
)
def test_sweeps(text, strengths):
    if strengths is None:
        with pytest.raises(UsageError):
            parse_sweep(text)
    else:
        swept = parse_sweep(text)
        assert [edit.strength for edit in swept] == strengths
        assert {edit.layers for edit in swept} == {(4,) if "@" in text else None}


def test_a_sequence_of_edits(tiny_generator, tiny_inputs):
    one, two = (Direction(name, "w", torch.randn(16), tiny_generator.fingerprint) for name in ("hair_length", "yaw"))
    directions = {"hair_length": one, "yaw": two}
    edits = [parse_edit("hair-length=2"), parse_edit("yaw=-1@0"), parse_edit("hair_length=-2")]
    there = apply_edits(tiny_inputs, edits, directions)
    assert torch.allclose(there.ws, two.edit(tiny_inputs, -1, [0]).ws, atol=1e-5)
    limited = apply_edits(tiny_inputs, edits[:2], directions, layers=(7,))
    assert torch.equal(limited.ws[:, 1:7], tiny_inputs.ws[:, 1:7])
    assert choose("hair-length", directions) is one
    with pytest.raises(UsageError, match="did you mean 'yaw'"):
        choose("yaws", directions)
    with pytest.raises(UsageError, match=r"with_channels\(directions, \['s:b8.conv1:3'\], generator\)"):
        apply_edits(tiny_inputs, [parse_edit("s:b8.conv1:3=2")], directions)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("smile+2_yaw-1@0-3", "smile+2_yaw-1@0-3"),
        ("s:b8.conv1:3+2", "s-b8.conv1-3+2"),
        ("a" * LONGEST_NAME, "a" * LONGEST_NAME),
        ("../..", "-.."),
        ("...", "edit"),
    ],
)
def test_names_of_files(text, name):
    assert file_name(text) == name


def test_names_that_are_cut_stay_apart():
    texts = ["a" * 200 + end for end in ("x", "y", "/", "-", "\udc80")]
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name) == LONGEST_NAME and name.startswith("a" * 100) for name in names)


@pytest.mark.parametrize(
    ("do", "sweeps", "labels", "films"),
    [
        (["smile=1"], ["yaw=-1..1:4"],
         ["smile+1", "smile+1_yaw-1", "smile+1_yaw-0.333333", "smile+1_yaw+0.333333", "smile+1_yaw+1"],
         ["smile+1_yaw"]),
        ([], ["yaw=1000000..1000002:3"], ["yaw+1000000", "yaw+1000001", "yaw+1000002"], ["yaw"]),
        ([], ["yaw=1e6..1000002:2", "yaw=1000001..1000003:2"],
         ["yaw+1000000", "yaw+1000002", "yaw+1000001", "yaw+1000003"],
         ["yaw+1000000..+1000002", "yaw+1000001..+1000003"]),
        ([], ["yaw=0.123456781..0.123456783:2"], ["yaw+0.123456781", "yaw+0.123456783"], ["yaw"]),
        ([], ["yaw=-1..1:2@0-1", "yaw=-1..1:2@4-7"], ["yaw-1@0-1", "yaw+1@0-1", "yaw-1@4-7", "yaw+1@4-7"],
         ["yaw@0-1", "yaw@4-7"]),
        ([], ["yaw=-1..1:2@3", "yaw=-2..2:2@3"], ["yaw-1@3", "yaw+1@3", "yaw-2@3", "yaw+2@3"],
         ["yaw-1..+1@3", "yaw-2..+2@3"]),
        ([], ["yaw=-1..1:2", "yaw=-1..1:2"], ["yaw-1", "yaw+1"] * 2, ["yaw", "yaw"]),
        (["yaw=1000001"], [], ["yaw+1e+06"], []),
    ],
)  # fmt: skip
def test_pictures_and_films_have_names_of_their_own(do, sweeps, labels, films):
    asked = Sequences([parse_edit(text) for text in do], [parse_sweep(text) for text in sweeps], {})
    assert [asked.label(edits) for edits in asked.steps] == labels
    assert [asked.film_label(sweep) for sweep in asked.sweeps] == films
    assert [heading.removeprefix("then ") for heading in asked.headings] == [name.split("_")[-1] for name in labels]


# ---- mixing and interpolation


@pytest.mark.parametrize(
    ("num_ws", "split", "row"), [(18, None, 7), (10, None, 4), (14, None, 5), (10, 3, 3), (10, 0.5, 5)]
)
def test_split(num_ws, split, row):
    assert split_row(num_ws, split) == row


@pytest.mark.parametrize("split", [0, -1, 8, 2.5, 0.99, float("nan"), float("inf")])
def test_no_split(split):
    with pytest.raises(UsageError, match="split"):
        split_row(8, split)


def two(inputs):
    return inputs.index([0]), inputs.index([1])


def test_mixing_takes_layers_whole(tiny_generator, tiny_inputs):
    """The layers above the split do what they do in the first image: noise and weights belong to them."""
    first, second = two(tiny_inputs)
    names = list(tiny_generator.noise_shapes)
    maps = tiny_generator.noise_const
    first = first.replace(
        noise={name: maps[name] + 1 for name in names}, deltas={"synthesis.b4.conv1.bias": torch.ones(1, 12)}
    )
    second = second.replace(
        noise={"b32.conv1": maps["b32.conv1"] - 1},
        deltas={"synthesis.b4.conv1.bias": torch.ones(1, 12) * 5, "synthesis.b32.conv1.bias": torch.ones(1, 6)},
    )
    mixed = mix(first, second, 3, tiny_generator)
    assert torch.equal(mixed.ws[:, :3], first.ws[:, :3]) and torch.equal(mixed.ws[:, 3:], second.ws[:, 3:])
    assert set(mixed.noise) == {"b4.conv1", "b8.conv0", "b8.conv1", "b32.conv1"}
    assert torch.equal(mixed.noise["b32.conv1"], second.noise["b32.conv1"])
    assert torch.equal(mixed.deltas["synthesis.b4.conv1.bias"], torch.ones(1, 12))
    assert "synthesis.b32.conv1.bias" in mixed.deltas
    _, alone = tiny_generator.features(first, names)
    _, both = tiny_generator.features(mixed, names)
    for name in names:
        assert torch.equal(alone[name], both[name]) == (tiny_generator.row_of(name) < 3)


@pytest.mark.parametrize("space", ["w+", "p-norm+"])
def test_interpolation_begins_and_ends_at_the_images(tiny_generator, tiny_inputs, pnorm, space):
    first, second = two(tiny_inputs)
    lens = None if space == "w+" else Whitened(PNormConstraint(pnorm.basis(), tiny_generator.num_ws))
    for t, end in ((0, first), (1, second)):
        assert torch.allclose(interpolate(first, second, t, lens).ws, end.ws, atol=1e-5)
    middle = interpolate(first, second, 0.25, lens).ws
    expected = 0.75 * first.ws + 0.25 * second.ws
    if space == "w+":
        assert torch.allclose(middle, expected, atol=1e-6)
    else:
        assert not torch.allclose(middle, expected, atol=1e-3)
        v = [pnorm.whiten(x.ws.double()) for x in (first, second)]
        assert torch.allclose(pnorm.whiten(middle.double()), 0.75 * v[0] + 0.25 * v[1], atol=1e-3)


def test_interpolation_of_noise_and_weights(tiny_inputs):
    first, second = two(tiny_inputs)
    first = first.replace(
        noise={"a": torch.zeros(1, 1, 2, 2), "b": torch.ones(1, 1, 2, 2)}, deltas={"x": torch.ones(1, 3)}
    )
    second = second.replace(noise={"a": torch.ones(1, 1, 2, 2)}, deltas={"x": torch.zeros(1, 3), "y": torch.ones(1, 2)})
    between = interpolate(first, second, 0.25)
    assert between.noise["a"].unique().item() == 0.25 and between.noise["b"].unique().item() == 1
    assert between.deltas["x"].unique().item() == 0.75 and between.deltas["y"].unique().item() == 0.25


def test_interpolation_refuses(tiny_inputs):
    first, second = two(tiny_inputs)
    cases = [
        ((first, second.replace(ws=second.ws[:, :4]), 0.5), "do not belong together"),
        ((first.replace(residuals={"=b8": torch.ones(1, 4, 8, 8)}), second, 0.5), "layer outputs"),
        ((first, second.replace(styles={"b8.conv0": torch.ones(1, 4)}), 0.5), "styles"),
        ((first, second.replace(transform=torch.eye(3)[None]), 0.5), "transform"),
    ]
    for arguments, message in cases:
        with pytest.raises(UsageError, match=message):
            interpolate(*arguments)


def test_films_go_there_and_back():
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(4)]
    assert [int(frame[0, 0, 0]) for frame in there_and_back(frames)] == [0, 1, 2, 3, 2, 1]


def test_generators_with_labels_have_directions_too():
    generator = make_tiny_generator(c_dim=3)
    found = find_ganspace(EditingSpace("w", generator), components=1, samples=500)
    assert found[0].vector.shape == (16,)
    with pytest.raises(UsageError, match="label must be"):
        seed_codes(generator, [1], label=3)


def test_samples_are_written_one_by_one_and_side_by_side(tmp_path, tiny_generator):
    written = save_samples(tiny_generator, [3, 12345], tmp_path, psi=0.5)
    assert [path.name for path in written] == ["seed0003.png", "seed12345.png", "grid.png"]
    expected = sample_images(tiny_generator, [3], 0.5)[0].clamp(-1, 1)
    assert (read_png(written[0]) - expected).abs().max() < 0.01
    assert read_png(written[2]).shape[2] > 2 * expected.shape[2]
    assert save_samples(tiny_generator, [3], tmp_path / "one", grid=False) == [tmp_path / "one" / "seed0003.png"]


def test_what_there_is_to_say_of_an_image_is_said_before_the_work_on_it(tmp_path, tiny_generator, tiny_inputs):
    layer = next(name for name in tiny_generator.layers if tiny_generator.row_of(name) == 2)
    start = tiny_inputs.index([0])
    with torch.no_grad():
        output = tiny_generator.features(start, [layer])[1][layer]
    fixed = start.replace(residuals={REPLACES + layer: output})
    smile = Direction("smile", "w", torch.ones(16), tiny_generator.fingerprint)
    asked = Sequences([Edit("smile", 1.0)], [], {"smile": smile})
    told = []

    def tell(text):
        told.append((text, sorted(path.parent.name for path in tmp_path.rglob("*.png"))))

    latents = [Latent("plain", start), Latent("fixed", fixed)]
    written, sheet = edit_latents(tiny_generator, latents, asked, tmp_path, on_note=tell)
    assert (written, sheet.name) == (2, "smile+1.png")
    assert told == [("fixed: its file replaces a layer's output; edits of rows 0 to 2 hardly show", ["plain"])]


def test_edits_are_refused_before_any_work(tmp_path, tiny_generator, tiny_inputs):
    directions = {"smile": Direction("smile", "w", torch.ones(16), tiny_generator.fingerprint)}
    for done, layers, words in (
        (["smile=1", "smile=1@9"], None, "rows 0 to 7"),
        (["smile=1", "yaw=1"], None, "no direction 'yaw'"),
        (["smile=1"], (8,), "rows 0 to 7"),
        (["smile=1", "smile=1e300"], None, r"smile\+1e\+300: too strong"),
    ):
        asked = Sequences([parse_edit(text) for text in done], [], directions, layers)
        with pytest.raises(UsageError, match=words):
            edit_latents(tiny_generator, [Latent("a", tiny_inputs.index([0]))], asked, tmp_path)
        assert not list(tmp_path.iterdir())


def test_a_picture_of_no_numbers_is_named_and_not_written(tmp_path, tiny_generator, tiny_inputs):
    directions = {"smile": Direction("smile", "w", torch.ones(16), tiny_generator.fingerprint)}
    asked = Sequences([parse_edit("smile=1"), parse_edit("smile=1e38")], [], directions)
    with pytest.raises(ImageError, match=r"a/smile\+1_smile\+1e\+38\.png: holds values that are not numbers.*smaller"):
        edit_latents(tiny_generator, [Latent("a", tiny_inputs.index([0]))], asked, tmp_path)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"smile+1.png", "smile+1.safetensors"}
