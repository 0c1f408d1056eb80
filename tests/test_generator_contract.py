"""Every registered generator family keeps the contract of `latentopt.protocols.Generator`.

A family needs a row of tiny generators in FAMILIES_HERE. Residuals, rows, deltas and styles are tried through the
members of the protocol alone, so that no test here knows a family's layers by name.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from conftest import make_tiny_generator, make_tiny_stylegan3

from latentopt.checkpoints.model_files import read_checkpoint
from latentopt.checkpoints.networks import generator_from, load_generator, save_generator
from latentopt.errors import UsageError
from latentopt.generators.families import FAMILIES
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

SMALL = {"channels": (8, 6, 5)}  # 16x16
FAMILIES_HERE = {  # {family: {configuration: what makes the tiny generator}}
    "stylegan2": {
        "plain": lambda: make_tiny_generator(**SMALL),
        "conditional": lambda: make_tiny_generator(**SMALL, c_dim=3, embed_features=5),
        "grey": lambda: make_tiny_generator(**SMALL, img_channels=1),
        "resnet": lambda: make_tiny_generator(**SMALL, architecture="resnet"),
        "orig": lambda: make_tiny_generator(**SMALL, architecture="orig"),
        "not square": lambda: make_tiny_generator(**SMALL, const_size=(4, 2)),
    },
    "stylegan3": {
        "T": make_tiny_stylegan3,
        "R": lambda: make_tiny_stylegan3(conv_kernel=1, radial_filters=True),
        "conditional": lambda: make_tiny_stylegan3(c_dim=3),
        "grey": lambda: make_tiny_stylegan3(img_channels=1),
        "other geometry": lambda: make_tiny_stylegan3(margin_size=4, num_critical=1, filter_size=4, conv_clamp=None),
    },
}
TRANSFORMED = {"stylegan3"}  # the families whose input has a transform
CASES = [(family, name) for family, made in FAMILIES_HERE.items() for name in made]
B = 3
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True)
class Case:
    """A generator, inputs of three images with rows that all differ, the labels behind them, and what they draw."""

    family: str
    generator: Generator
    inputs: GeneratorInputs
    z: torch.Tensor  # [B,Z]
    c: torch.Tensor | None  # [B,K]

    @property
    def image(self):
        return self.generator.synthesis(self.inputs)

    def captured(self, inputs=None, noise_mode="const"):
        inputs = self.inputs if inputs is None else inputs
        return self.generator.features(inputs, list(self.generator.activations), noise_mode)

    def random(self, shape, scale=0.3):
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(9)) * scale


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def case(request) -> Case:
    family, name = request.param
    generator, rng = FAMILIES_HERE[family][name](), torch.Generator().manual_seed(1)
    z = torch.randn(B * generator.num_ws, generator.z_dim, generator=rng)
    c = torch.eye(generator.c_dim)[torch.arange(B) % generator.c_dim] if generator.c_dim else None
    labels = None if c is None else c.repeat_interleave(generator.num_ws, 0)
    ws = generator.mapping(z, labels).unflatten(0, (B, -1))
    return Case(family, generator, GeneratorInputs(ws), z[:B], c)


def differs(a, b):
    return not torch.allclose(a, b, **CLOSE)


def test_low_memory_draws_the_same_and_has_the_same_gradient(case, monkeypatch):
    monkeypatch.setattr("latentopt.generators.recomputing.LARGE", 1)
    generator = copy.deepcopy(case.generator)
    delta = {name: 0.1 * case.random(shape) for name, shape in generator.tunable.items()}

    def drawn(low):
        assert generator.set_low_memory(low) is generator and generator.low_memory is low
        ws = case.inputs.ws.clone().requires_grad_()
        image = generator.synthesis(GeneratorInputs(ws, deltas={name: x[None] for name, x in delta.items()}))
        return image, torch.autograd.grad(image.square().sum(), ws)[0], generator.gradient_bytes

    (plain, gradient, kept), (again, same, less) = drawn(False), drawn(True)
    assert torch.equal(plain, again) and torch.equal(gradient, same)
    assert 0 < less < kept


def test_every_family_has_a_row():
    assert set(FAMILIES_HERE) == set(FAMILIES)
    assert all(FAMILIES_HERE.values())


# What a generator says of itself ------------------------------------------------------------------------------------


def test_members(case):
    g = case.generator
    assert isinstance(g, Generator)
    assert isinstance(g, FAMILIES.load(case.family))
    assert FAMILIES.resolve(g.family.lower()) == case.family
    for text in (g.family, g.name, g.source, g.fingerprint):
        assert isinstance(text, str)
        assert text
    assert isinstance(g.card, dict)
    assert isinstance(g.notes, tuple)
    assert isinstance(g.architecture, dict)
    assert all(isinstance(n, int) and n > 0 for n in (*g.resolution, g.img_channels, g.num_ws, g.w_dim, g.z_dim))
    assert len(g.resolution) == 2
    assert g.c_dim == (0 if case.c is None else case.c.shape[1])
    assert g.w_avg.shape == (g.w_dim,)
    assert g.device == torch.device("cpu") == g.w_avg.device
    assert g.precision == torch.float32


def test_image(case):
    g = case.generator
    assert case.image.shape == (B, g.img_channels, *g.resolution)
    assert case.image.dtype == torch.float32
    assert torch.isfinite(case.image).all()


def test_the_names_agree(case):
    g = case.generator
    assert g.layers
    assert set(g.convolutions) <= set(g.layers)
    assert set(g.convolutions.values()) <= set(g.tunable)
    for names in (g.layers, g.activations):
        rows = list(names.values())
        assert rows == sorted(rows)
        assert {g.row_of(name) for name in names} == set(rows)
        assert all(g.row_of(name) == row for name, row in names.items())
        assert 0 <= rows[0] <= rows[-1] < g.num_ws
    assert set(g.layers.values()) == set(range(g.num_ws))
    assert all(g.row_of(weight) == g.layers[layer] for layer, weight in g.convolutions.items())
    assert g.row_of("nothing of this name") is None


def test_tunable_weights(case):
    for name, shape in case.generator.tunable.items():
        assert case.generator.weight(name).shape == shape


def test_each_layer_has_an_affine_matrix_and_a_style(case):
    g, styles = case.generator, case.generator.styles(case.inputs)
    assert list(styles) == list(g.layers)
    for layer, style in styles.items():
        assert g.affine(layer).shape == (style.shape[1], g.w_dim)
        assert len(style) == B


def test_noise_maps(case):
    g = case.generator
    assert {name: (1, 1, *size) for name, size in g.noise_shapes.items()} == {
        name: tuple(x.shape) for name, x in g.noise_const.items()
    }
    assert set(g.noise_shapes) <= set(g.layers)
    noisy = g.synthesis(case.inputs.replace(noise=g.noise_const), "none")
    assert torch.equal(noisy, case.image)
    assert differs(g.synthesis(case.inputs, "none"), case.image) == bool(g.noise_shapes)


def test_random_noise_is_repeatable(case):
    draws = [case.generator.synthesis(case.inputs, "random", torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert differs(draws[0], draws[2]) == bool(case.generator.noise_shapes)


# Latents -----------------------------------------------------------------------------------------------------------


def test_mapping_and_its_inverse(case):
    g = case.generator
    w = g.mapping(case.z, case.c)
    assert w.shape == (B, g.w_dim)
    found = g.inverse_mapping(w, case.c)
    assert found.shape == case.z.shape
    scale = (case.z * found).sum(dim=1, keepdim=True) / found.square().sum(dim=1, keepdim=True)
    assert (scale > 0).all()
    torch.testing.assert_close(found * scale, case.z, rtol=1e-2, atol=1e-2)
    assert differs(w[0], w[1])


@pytest.mark.parametrize("off", [0.0, 0.25], ids=["of the network", "another"])
def test_trained_mappings_backwards(off):
    """Their layers flatten: the very z is lost, and a z of the same w is found; for another w one that is nearer than
    most samples are, whatever its companions.
    """
    g = load_generator("portraits", device="cpu")
    rng = torch.Generator().manual_seed(3)
    w = g.mapping(torch.randn(20, g.z_dim, generator=rng))
    w = w + off * torch.randn(w.shape, generator=rng)
    radius = (w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    found = g.inverse_mapping(torch.cat([w, w[:1]]))
    assert torch.equal(found[0], found[-1])
    distance = (g.mapping(found[:-1]) - w).norm(dim=1) / radius
    assert distance.median() < (0.4 if off else 0.01)
    assert distance.max() < (0.5 if off else 0.2)
    torch.testing.assert_close(g.inverse_mapping(w[7:8]), found[7:8], rtol=0, atol=1e-4)


def test_a_conditional_generator_asks_for_labels(case):
    if case.c is None:
        assert torch.equal(case.generator.mapping(case.z), case.generator.mapping(case.z, None))
        return
    with pytest.raises((UsageError, ValueError), match="label"):
        case.generator.mapping(case.z)
    others = case.c.roll(1, dims=1)
    assert differs(case.generator.mapping(case.z, others), case.generator.mapping(case.z, case.c))


def test_truncation(case):
    g, w = case.generator, case.generator.mapping(case.z, case.c)
    ws = g.broadcast(w)
    assert torch.equal(ws, w[:, None].expand(B, g.num_ws, g.w_dim))
    assert torch.equal(g.truncate(w, 1.0), ws)
    torch.testing.assert_close(g.truncate(w, 0.0), g.w_avg.expand_as(ws))
    torch.testing.assert_close(g.truncate(w, 0.5), (ws + g.w_avg) / 2)
    torch.testing.assert_close(g.truncate(w, 0.5, cutoff=2)[:, :2], g.truncate(w, 0.5)[:, :2])
    assert torch.equal(g.truncate(w, 0.5, cutoff=2)[:, 2:], ws[:, 2:])


def test_a_row_moves_nothing_below_it(case):
    """Row r changes no activation whose row is below r, and every layer that it drives."""
    g, (_, plain) = case.generator, case.captured()
    for row in range(g.num_ws):
        ws = case.inputs.ws.clone()
        ws[:, row] += 1
        _, moved = case.captured(case.inputs.replace(ws=ws))
        changed = {name for name in plain if not torch.equal(moved[name], plain[name])}
        assert not [name for name in changed if g.activations[name] < row]
        driven = {layer for layer, own in g.layers.items() if own == row and layer in plain}
        assert driven <= changed


# Styles, residuals, deltas -----------------------------------------------------------------------------------------


def test_features_are_those_of_the_image(case):
    image, features = case.captured()
    assert torch.equal(image, case.image)
    assert list(features) == list(case.generator.activations)
    assert all(x.ndim == 4 and len(x) == B for x in features.values())
    assert case.generator.features(case.inputs, [])[1] == {}


def test_a_residual_is_added_to_its_activation(case):
    """Zero changes nothing; anything else is added to its own activation, and moves nothing before it."""
    image, plain = case.captured()
    zeros = {name: torch.zeros_like(x) for name, x in plain.items()}
    assert torch.equal(case.generator.synthesis(case.inputs.replace(residuals=zeros)), image)
    names = list(plain)
    for i, name in enumerate(names):
        residual = case.random(plain[name].shape)
        moved_image, moved = case.captured(case.inputs.replace(residuals={name: residual}))
        torch.testing.assert_close(moved[name], plain[name] + residual, **CLOSE)
        assert all(torch.equal(moved[before], plain[before]) for before in names[:i])
        assert differs(moved_image, image)


def test_own_styles_change_nothing(case):
    styles = case.generator.styles(case.inputs)
    image = case.generator.synthesis(case.inputs.replace(styles=styles))
    torch.testing.assert_close(image, case.image, **CLOSE)


def test_given_styles_take_the_place_of_the_affines_output(case):
    """All styles of another image draw that image, whatever ws says; and `styles` gives back what is given."""
    others = case.inputs.index([1, 2, 0])
    mixed = case.inputs.replace(styles=case.generator.styles(others))
    torch.testing.assert_close(case.generator.synthesis(mixed), case.image[[1, 2, 0]], **CLOSE)
    assert all(case.generator.styles(mixed)[name] is style for name, style in (mixed.styles or {}).items())


def test_one_style_a_filter(case):
    """All filters of a convolution with the layer's own style draw the same image."""
    g, styles = case.generator, case.generator.styles(case.inputs)
    per_filter = {
        layer: styles[layer][:, None].expand(-1, g.tunable[weight][0], -1)  # [B,O,I]
        for layer, weight in g.convolutions.items()
    }
    torch.testing.assert_close(g.synthesis(case.inputs.replace(styles=per_filter)), case.image, **CLOSE)


@pytest.mark.parametrize("images", [1, B], ids=["shared", "per image"])
def test_deltas(case, images):
    """Zero changes nothing; others draw each image as its own changed weights do."""
    g = case.generator
    zeros = {name: torch.zeros(images, *shape) for name, shape in g.tunable.items()}
    torch.testing.assert_close(g.synthesis(case.inputs.replace(deltas=zeros)), case.image, **CLOSE)
    deltas = {name: case.random((images, *shape)) for name, shape in g.tunable.items()}
    drawn = g.synthesis(case.inputs.replace(deltas=deltas))
    for i in range(B):
        own = g.with_weights({name: x[i if images > 1 else 0] for name, x in deltas.items()})
        expected = own.synthesis(case.inputs.index([i]))
        assert (drawn[i : i + 1] - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert differs(drawn, case.image)


def test_each_tunable_weight_has_its_delta(case):
    """Alone, on the second image: that one is drawn as with the changed weight, and no other moves."""
    for name, shape in case.generator.tunable.items():
        delta = torch.zeros(B, *shape)
        delta[1] = 0.5
        drawn = case.generator.synthesis(case.inputs.replace(deltas={name: delta}))
        own = case.generator.with_weights({name: delta[1]}).synthesis(case.inputs.index([1]))
        torch.testing.assert_close(drawn[1:2], own, **CLOSE)
        torch.testing.assert_close(drawn[[0, 2]], case.image[[0, 2]], **CLOSE)
        assert (drawn[1] - case.image[1]).abs().max() > 1e-3, name


def test_with_weights_is_a_copy_of_another_fingerprint(case):
    g, before = case.generator, case.generator.fingerprint
    name, shape = next(iter(g.tunable.items()))
    changed = g.with_weights({name: torch.full(shape, 0.5)})
    assert type(changed) is type(g)
    assert changed.fingerprint not in ("", before)
    torch.testing.assert_close(changed.weight(name), g.weight(name) + 0.5)
    assert g.with_weights({}).fingerprint == before == copy.deepcopy(g).fingerprint


# Batches, precision, layout -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True], ids=["plain", "grouped"])
def test_an_image_does_not_depend_on_its_companions(case, grouped):
    inputs = case.inputs
    if grouped:
        deltas = {name: case.random((B, *shape), 0.1) for name, shape in case.generator.tunable.items()}
        inputs = inputs.replace(deltas=deltas)
    together = case.generator.synthesis(inputs)
    for i in range(B):
        torch.testing.assert_close(case.generator.synthesis(inputs.index([i])), together[i : i + 1], **CLOSE)


def test_precision_is_reversible(case):
    g, plain = copy.deepcopy(case.generator), case.image
    assert g.set_precision(torch.bfloat16) is g
    assert g.precision == torch.bfloat16
    low = g.synthesis(case.inputs)
    assert low.dtype == torch.float32
    assert not torch.equal(low, plain)
    assert (low - plain).abs().mean() < 0.05 * plain.abs().mean()
    high = g.in_float32()
    assert high is not g
    assert high.precision == torch.float32
    assert torch.equal(high.synthesis(case.inputs), plain)
    assert g.precision == torch.bfloat16
    assert torch.equal(g.set_precision(None).synthesis(case.inputs), plain)
    assert g.in_float32() is g


def test_memory_format_changes_nothing(case):
    g = copy.deepcopy(case.generator)
    assert g.set_memory_format(torch.channels_last) is g
    torch.testing.assert_close(g.synthesis(case.inputs), case.image, **CLOSE)
    g.set_memory_format(torch.contiguous_format)
    assert torch.equal(g.synthesis(case.inputs), case.image)


# Refusals ----------------------------------------------------------------------------------------------------------


def test_a_transform_is_drawn_or_refused_in_words(case):
    inputs = case.inputs.replace(transform=torch.eye(3).expand(B, 3, 3))
    if case.family in TRANSFORMED:
        torch.testing.assert_close(case.generator.synthesis(inputs), case.image, **CLOSE)
        return
    with pytest.raises(UsageError, match="transform"):
        case.generator.synthesis(inputs)


@pytest.mark.parametrize("rows", [-1, 1, None])
def test_ws_of_another_shape(case, rows):
    g = case.generator
    ws = torch.zeros(1, g.w_dim) if rows is None else torch.zeros(1, g.num_ws + rows, g.w_dim)
    with pytest.raises((UsageError, ValueError), match=rf"ws.*\[B,{g.num_ws},"):
        g.synthesis(GeneratorInputs(ws))


def test_an_unknown_noise_mode(case):
    with pytest.raises((UsageError, ValueError), match="noise_mode 'constant'"):
        case.generator.synthesis(case.inputs, "constant")


# Files -------------------------------------------------------------------------------------------------------------


def test_its_file_draws_the_same(case, tmp_path):
    save_generator(case.generator, tmp_path / "g.safetensors")
    checkpoint = read_checkpoint(tmp_path / "g.safetensors")
    assert checkpoint.metadata["family"] == case.family
    found = generator_from(checkpoint, "g")
    assert type(found) is type(case.generator)
    assert found.fingerprint == case.generator.fingerprint
    assert torch.equal(found.synthesis(case.inputs), case.image)


def test_what_does_not_change_is_drawn_once(case):
    """With any one weight, noise map or residual changed, from the beginning as from the start. Last bits go by where
    tensors lie in memory.
    """
    g, inputs = case.generator, case.inputs
    features = case.captured()[1]
    changes = {f"deltas/{name}": {name: case.random((B, *shape))} for name, shape in g.tunable.items()}
    changes |= {f"noise/{name}": {name: case.random((B, 1, *size))} for name, size in g.noise_shapes.items()}
    changes |= {f"residuals/{name}": {name: case.random(x.shape)} for name, x in features.items()}
    begun = 0
    for name, entry in changes.items():
        changed = inputs.replace(**{name.partition("/")[0]: entry})
        assert inputs.changed(changed) == {name}
        beginning = g.begin(inputs, frozenset({name}))
        if beginning is not None:
            begun += 1
            torch.testing.assert_close(g.synthesis(changed, beginning=beginning), g.synthesis(changed), **CLOSE)
            rows = torch.tensor([2, 0])
            again = g.synthesis(changed.index(rows), beginning=beginning.index(rows))
            torch.testing.assert_close(again, g.synthesis(changed.index(rows)), **CLOSE)
    assert begun > len(changes) // 3
    assert g.begin(inputs, frozenset({"ws", name})) is None
    assert g.begin(inputs, frozenset(changes)) is None
    assert (g.begin(inputs, frozenset({name}), "random") is None) == bool(g.noise_shapes)
