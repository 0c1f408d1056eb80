"""The laws of a lens, over everything that is registered as a space: a new one is tested by being registered."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from conftest import make_tiny_generator, make_tiny_stylegan3
from torch import Tensor

from latentopt.errors import StatisticsError, UsageError
from latentopt.loop.joint import Joint
from latentopt.parameterizations.constraint import PNormConstraint
from latentopt.registry import INITIALIZERS, OPTIMIZERS, PARAMETERIZATIONS, SCHEDULES, TERMS
from latentopt.statistics.metric import Metric
from latentopt.statistics.metric_fit import fit_metric
from latentopt.statistics.pnorm import PNorm, PNormBasis
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.statistics.sigma import Sigma
from latentopt.types import FIELDS, GeneratorInputs

DECLARED = {name: PARAMETERIZATIONS.declared(name) for name in PARAMETERIZATIONS}
CASES = [(name, options) for name, declared in DECLARED.items() for options in declared.examples]
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}  # float32 whitening by std down to 0.014
each_space = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda x: str(x))


@pytest.fixture(scope="module")
def statistics(tiny_generator) -> PNorm:
    return fit_pnorm(tiny_generator, 4000, batch=1000)


def make_sigma(generator) -> Sigma:
    """A scale from 0.1 to 1 for every weight."""
    rng = torch.Generator().manual_seed(6)
    tensors = {name: 0.1 + 0.9 * torch.rand(shape, generator=rng) for name, shape in generator.tunable.items()}
    return Sigma(tensors, "estimated", generator.fingerprint)


@pytest.fixture(scope="module")
def metric(tiny_generator) -> Metric:
    return measured(tiny_generator)


def measured(generator) -> Metric:
    return fit_metric(generator, net="bundled", size=16, layers="all", probes=16)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, statistics, metric, tiny_generator):
    """A current folder that holds the tiny generator's statistics."""
    statistics.save(tmp_path / "pnorm_stats" / "tiny.safetensors")
    metric.save(tmp_path / "pnorm_stats" / "tiny.metric.safetensors")
    make_sigma(tiny_generator).save(tmp_path / "sigma" / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def inputs(request, tiny_generator, tiny_inputs) -> GeneratorInputs:
    """Every field is given. A delta of one convolution, of rank 2; one for all images where the lens shares its own."""
    rng = torch.Generator().manual_seed(2)
    noise = {name: torch.randn(3, 1, *size, generator=rng) for name, size in tiny_generator.noise_shapes.items()}
    up, down = torch.randn(3, 8, 2, generator=rng), torch.randn(3, 2, 90, generator=rng)
    deltas = {"synthesis.b16.conv0.weight": (up @ down).reshape(3, 8, 10, 3, 3)}
    case = getattr(request.node, "callspec", None)
    if case is not None and case.params.get("options", {}).get("shared"):
        deltas = {name: delta[:1] for name, delta in deltas.items()}
    return tiny_inputs.replace(noise=noise, deltas=deltas)


def fitting(name, generator, **changes):
    """The generator that a space is for: one of another family where it moves the picture."""
    return make_tiny_stylegan3(**changes) if "transform" in DECLARED[name].owns else generator


def lens_of(name, options, generator):
    generator = fitting(name, generator)
    if options.get("metric"):  # the one that is at hand
        options = {"metric_net": "bundled", "metric_size": 16} | options
    return PARAMETERIZATIONS.create(name, generator, **options)


def close(a, b, **tolerance) -> None:
    torch.testing.assert_close(a, b, **(tolerance or TOLERANCE))


def groups(inputs: GeneratorInputs) -> dict:
    return {name: getattr(inputs, name) for name in FIELDS}


def picked_rows(variables: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The images in `rows`; what all images share stays."""
    return {key: v if len(v) == 1 else v[rows] for key, v in variables.items()}


def disturbed(variables: dict[str, Tensor], seed: int = 3) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: v + torch.randn(v.shape, generator=rng) for name, v in variables.items()}


@pytest.mark.parametrize(
    "registry", [PARAMETERIZATIONS, TERMS, INITIALIZERS, OPTIMIZERS, SCHEDULES], ids=lambda r: r.kind
)
def test_every_registered_plug_in_can_be_imported_and_its_options_read(registry):
    import importlib

    for name, target in registry.targets.items():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))
        assert all(o.type for o in registry.options(name).values())
    assert all(name in registry.targets for name in registry.aliases.values())


@each_space
def test_decoding_what_was_encoded_is_idempotent(name, options, tiny_generator, inputs):
    lens = lens_of(name, options, tiny_generator)
    once = lens.decode(lens.encode(inputs), inputs)
    twice = lens.decode(lens.encode(once), once)
    for a, b in zip(groups(once).values(), groups(twice).values(), strict=True):
        close(b, a)


@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if "rank" not in case[1]], ids=lambda x: str(x)
)  # a truncated basis holds no generator's w exactly
def test_exact_where_the_space_can_represent_the_input(name, options, tiny_generator, inputs):
    """Every ws for the spaces that hold all; one mapped w in every layer for the others. Encoding sets no bounds."""
    if not DECLARED[name].exact:
        rng = torch.Generator().manual_seed(5)
        w = tiny_generator.mapping(torch.randn(3, tiny_generator.z_dim, generator=rng))
        inputs = inputs.replace(ws=tiny_generator.broadcast(w))
    lens = lens_of(name, options, tiny_generator)
    if "noise" in lens.owns:
        inputs = lens.decode(lens.encode(inputs), inputs)
    back = lens.decode(lens.encode(inputs), inputs)
    tolerance = 1e-3 if name in ("z", "z+") else 1e-4  # the network run backwards: z is off by its condition number
    close(back.ws, inputs.ws, rtol=tolerance, atol=tolerance)
    close(back.noise, inputs.noise, rtol=1e-6, atol=1e-6)
    close({name: back.deltas[name] for name in inputs.deltas}, inputs.deltas, rtol=1e-5, atol=1e-5)


@each_space
def test_what_is_not_owned_comes_back_as_the_same_object(name, options, tiny_generator, inputs):
    lens = lens_of(name, options, tiny_generator)
    back = lens.decode(lens.encode(inputs), inputs)
    for field, value in groups(back).items():
        assert (value is groups(inputs)[field]) == (field not in lens.owns or value is None), field


@each_space
def test_encoding_makes_tensors_of_its_own(name, options, tiny_generator, inputs):
    """The loop writes to the variables in place: the start must not change with them."""
    lens, before = lens_of(name, options, tiny_generator), inputs.map(Tensor.clone)
    for v in lens.encode(inputs).values():
        assert len(v) == (1 if options.get("shared") else len(inputs))
        v.add_(1)
    for field in ("noise", "deltas"):
        pairs = zip(groups(inputs)[field].values(), groups(before)[field].values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), field
    assert torch.equal(inputs.ws, before.ws)
    stored, fresh = tiny_generator.noise_const, make_tiny_generator().noise_const
    assert all(torch.equal(stored[name], fresh[name]) for name in fresh)


@each_space
def test_projecting_twice_is_projecting_once(name, options, tiny_generator, inputs):
    lens = lens_of(name, options, tiny_generator)
    variables = disturbed(lens.encode(inputs))
    lens.project_(variables)
    once = {key: v.clone() for key, v in variables.items()}
    lens.project_(variables)
    close(variables, once)


@each_space
def test_everything_commutes_with_picking_images(name, options, tiny_generator, inputs):
    lens, rows = lens_of(name, options, tiny_generator), torch.tensor([2, 0])
    whole = disturbed(lens.encode(inputs))
    picked = picked_rows(whole, rows)
    close(lens.encode(inputs.index(rows)), picked_rows(lens.encode(inputs), rows), rtol=1e-5, atol=1e-5)
    decoded = lens.decode(whole, inputs).index(rows)
    for a, b in zip(groups(lens.decode(picked, inputs.index(rows))).values(), groups(decoded).values(), strict=True):
        close(a, b, rtol=1e-5, atol=1e-5)
    penalty = lens.penalty(whole)
    if penalty is not None:
        close(lens.penalty(picked), picked_rows({"penalty": penalty}, rows)["penalty"], rtol=1e-5, atol=1e-5)
    lens.project_(whole)
    lens.project_(picked)
    close(picked, picked_rows(whole, rows), rtol=1e-5, atol=1e-5)


@each_space
def test_penalty_is_one_number_an_image_or_none(name, options, tiny_generator, inputs):
    """One for all where they share the variables."""
    lens = lens_of(name, options, tiny_generator)
    penalty = lens.penalty(lens.encode(inputs))
    weight = options.get("alpha", 1e-4) if name == "epsilon" else options.get("l2", 0.0)
    assert (penalty is None) == (weight == 0)
    if penalty is not None:
        assert penalty.shape == ((1,) if options.get("shared") else (3,))
        assert penalty.isfinite().all()


@each_space
def test_gradients(name, options, tiny_generator, inputs, monkeypatch):
    """decode and penalty in float64, against finite differences along four random directions.

    What is decoded is seen through four random projections: the full Jacobian of a network's weights is too large, and
    the fast mode of gradcheck fails in some releases of torch where there are several inputs.
    """
    basis = PNorm.basis
    monkeypatch.setattr(PNorm, "basis", lambda self, **o: basis(self, **(o | {"dtype": torch.float64})))
    generator = copy.deepcopy(tiny_generator).double()
    lens, inputs = lens_of(name, options, generator), inputs.to(torch.float64)
    variables = {key: v.double() for key, v in disturbed(lens.encode(inputs)).items()}
    rng = torch.Generator().manual_seed(4)
    along = {key: torch.randn(4, *v.shape, generator=rng, dtype=v.dtype) for key, v in variables.items()}

    def moved(s: Tensor) -> dict[str, Tensor]:
        return {key: v + torch.tensordot(s, along[key], 1) for key, v in variables.items()}

    def decoded(s: Tensor) -> Tensor:
        fields = [groups(lens.decode(moved(s), inputs))[name] for name in sorted(lens.owns)]
        tensors = [tensor for field in fields for tensor in ([field] if isinstance(field, Tensor) else field.values())]
        return torch.cat([tensor.flatten() for tensor in tensors])

    s = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    size = decoded(s).numel()
    across = torch.randn(4, size, generator=rng, dtype=torch.float64) / size**0.5
    assert torch.autograd.gradcheck(lambda s: across @ decoded(s), s)
    if lens.penalty(variables) is not None:
        assert torch.autograd.gradcheck(lambda s: lens.penalty(moved(s)), s)


@each_space
def test_spaces_work_for_other_shapes(name, options, tiny_generator, tmp_path):
    """A conditional generator of another size: nothing is hard-coded. Wide mapping networks included."""
    generator = make_tiny_generator(3, c_dim=3, channels=(6, 4), z_dim=8, mapping_layers=2, const_size=(4, 3))
    fit_pnorm(generator, 2000, batch=1000).save(tmp_path / "pnorm_stats" / "tiny.safetensors")
    measured(generator).save(tmp_path / "pnorm_stats" / "tiny.metric.safetensors")
    make_sigma(generator).save(tmp_path / "sigma" / "tiny.safetensors")
    lens, generator = lens_of(name, options, generator), fitting(name, generator, c_dim=3, z_dim=8)
    rng = torch.Generator().manual_seed(0)
    c = torch.eye(3)[[0, 0]]
    w = generator.mapping(torch.randn(2, 8, generator=rng), c)
    inputs = GeneratorInputs(generator.broadcast(w))
    decoded = lens.decode(lens.encode(inputs), inputs)
    assert generator.synthesis(decoded).shape == (2, 3, *generator.resolution)
    if not options.get("rank"):
        close(decoded.ws, inputs.ws)


@pytest.mark.parametrize("label", [0, 2])
def test_z_uses_its_label(label):
    generator = make_tiny_generator(3, c_dim=3, channels=(6, 4), z_dim=8)
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    z = z * 8**0.5 / z.norm(dim=1, keepdim=True)
    w = generator.mapping(z, torch.eye(3)[[label] * 2])
    lens = PARAMETERIZATIONS.create("z", generator, label=label)
    inputs = GeneratorInputs(generator.broadcast(w))
    close(lens.encode(inputs)["z"], z)
    close(lens.decode({"z": z}, inputs).ws, inputs.ws)


def test_joint_lenses_keep_their_variables_apart(tiny_generator, inputs):
    joint = Joint({"w+": lens_of("w+", {"l2": 0.1}, tiny_generator), "noise": lens_of("noise", {}, tiny_generator)})
    variables = joint.encode(inputs)
    assert set(variables) == {"w+/w", *(f"noise/{name}" for name in tiny_generator.noise_shapes)}
    assert joint.owns == {"ws", "noise"}
    decoded = joint.decode(variables, inputs)
    assert torch.equal(decoded.ws, inputs.ws)
    close(joint.penalty(variables), lens_of("w+", {"l2": 0.1}, tiny_generator).penalty({"w": inputs.ws}))
    with pytest.raises(UsageError, match="w, w\\+"):
        Joint({name: lens_of(name, {}, tiny_generator) for name in ("w", "w+")})


# What the constraints do, by hand. The identity basis makes P-norm coordinates equal to P.


def constraint(num_ws: int = 3, **options) -> PNormConstraint:
    basis = PNormBasis(torch.zeros(2), torch.eye(2), torch.ones(2))
    return PNormConstraint(basis, num_ws, **options)


CODE = torch.tensor([[[3.0, -0.5], [4.0, 0.5], [0.0, -2.0]]])  # [1,3,2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[3.0, -0.5], [4.0, 0.5], [0.0, -2.0]]),
        ({"clip": 1.0}, [[1.0, -0.5], [1.0, 0.5], [0.0, -1.0]]),
        # over the layers the first coordinate is (3, 4, 0) of norm 5, the second (-0.5, 0.5, -2) of norm sqrt(4.5)
        ({"project": 2.5}, [[1.5, -0.5], [2.0, 0.5], [0.0, -2.0]]),
        ({"project": 1.0}, [[0.6, -0.5 / 4.5**0.5], [0.8, 0.5 / 4.5**0.5], [0.0, -2.0 / 4.5**0.5]]),
        ({"clip": 2.0, "project": 1.0}, [[0.5**0.5, -0.5 / 4.5**0.5], [0.5**0.5, 0.5 / 4.5**0.5], [0, -2 / 4.5**0.5]]),
        ({"sphere": True}, [[3 * (2 / 9.25) ** 0.5, -0.5 * (2 / 9.25) ** 0.5], [1.403293, 0.175412], [0, -(2**0.5)]]),
    ],
)
def test_projection_by_hand(options, expected):
    close(constraint(**options).nearest(CODE), torch.tensor([expected]), rtol=1e-5, atol=1e-5)


def test_penalty_by_hand():
    assert constraint(l2=0.5).penalty(CODE).tolist() == [0.5 * (9 + 0.25 + 16 + 0.25 + 0 + 4)]
    assert constraint().penalty(CODE) is None


def test_one_row_counts_for_every_layer_by_hand():
    """(3, 0.2) in four layers: the first coordinate has norm 6 over them, the second 0.4."""
    row = torch.tensor([[[3.0, 0.2]]])
    close(constraint(num_ws=4, project=1.5).nearest(row), torch.tensor([[[0.75, 0.2]]]), rtol=1e-5, atol=1e-5)
    close(constraint(num_ws=4, l2=0.5).penalty(row), torch.tensor([0.5 * 4 * 9.04]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"project": 1.5},
        {"l2": 0.1},
        {"clip": 0.7},
        {"clip": 1.0, "project": 1.0, "l2": 0.2},
        {"project": 1.0, "rank": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize(("one", "all_rows"), [("w", "w+"), ("p-norm", "p-norm+")])
def test_one_code_is_held_as_equal_rows_are(one, all_rows, options, tiny_generator, inputs, statistics):
    """W is W+ with equal rows: the same projection, penalty and, summed over the rows, gradient."""
    narrow, wide = lens_of(one, options, tiny_generator), lens_of(all_rows, options, tiny_generator)
    code = disturbed(narrow.encode(inputs))
    rows = {key: v.expand(-1, 8, -1).clone() for key, v in zip(wide.encode(inputs), code.values(), strict=True)}
    if "l2" in options:
        leaves = [{key: v.clone().requires_grad_() for key, v in part.items()} for part in (code, rows)]
        penalties = [lens.penalty(leaf) for lens, leaf in zip((narrow, wide), leaves, strict=True)]
        close(penalties[0], penalties[1], rtol=1e-4, atol=1e-4)
        gradients = [torch.autograd.grad(p.sum(), [*leaf.values()]) for p, leaf in zip(penalties, leaves, strict=True)]
        close(gradients[0][0], gradients[1][0].sum(dim=1, keepdim=True))
    narrow.project_(code)
    wide.project_(rows)
    ws = narrow.decode(code, inputs).ws
    close(ws, wide.decode(rows, inputs).ws)
    if "project" in options:
        norm = statistics.whiten(ws.double()).norm(dim=1)
        assert norm.max() == pytest.approx(options["project"], abs=1e-3), "reached, and not passed"


def test_projection_in_w_is_projection_in_p():
    """w = -0.5 is P = -2.5: beyond a clip of 2; the layer that is allowed comes back bit for bit."""
    w = torch.tensor([[[0.1, -0.5], [1.3, -0.33]]])
    moved = constraint(clip=2.0).nearest_w(w)
    close(moved, torch.tensor([[[0.1, -0.4], [1.3, -0.33]]]), rtol=1e-6, atol=1e-6)
    assert torch.equal(moved[:, 1], w[:, 1])


def test_projection_in_w_uses_the_slope_of_the_statistics():
    basis = PNormBasis(torch.zeros(2), torch.eye(2), torch.ones(2), slope=0.5)
    moved = PNormConstraint(basis, 1, clip=2.0).nearest_w(torch.tensor([[[0.1, -1.5]]]))
    close(moved, torch.tensor([[[0.1, -1.0]]]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{"clip": 1.0}, {"project": 1.5}, {"clip": 0.7, "project": 1.0}], ids=str)
@pytest.mark.parametrize("name", ["w+", "p-norm+"])
def test_bounds_hold_in_float64_after_projecting(name, options, tiny_generator, inputs, statistics):
    lens = lens_of(name, options, tiny_generator)
    variables = disturbed(lens.encode(inputs))
    lens.project_(variables)
    v = statistics.whiten(lens.decode(variables, inputs).ws.double())
    slack = 1e-3  # float32 against float64 in the directions of smallest std
    assert v.abs().max() <= options.get("clip", math.inf) + slack
    assert v.norm(dim=1).max() <= options.get("project", math.inf) + slack
    assert v.abs().max() > 0.4, "not everything was thrown away"


def test_rank_leaves_the_other_components_at_their_mean(tiny_generator, inputs, statistics):
    for name in ("w+", "p-norm+"):
        lens = lens_of(name, {"rank": 5, "clip": 1.0}, tiny_generator)
        variables = lens.encode(inputs)
        lens.project_(variables)
        v = statistics.whiten(lens.decode(variables, inputs).ws.double())
        assert v[..., 5:].abs().max() < 1e-3
        assert v[..., :5].abs().max() <= 1 + 1e-3
        assert v[..., :5].abs().max() > 0.5


def test_std_floor_tames_the_smallest_components(tiny_generator, inputs, statistics):
    floored = lens_of("p-norm+", {"std_floor": 0.2}, tiny_generator)
    v = floored.encode(inputs)["v"]
    std = statistics.std.clamp(min=0.2 * statistics.std[0].item())
    expected = statistics.whiten(inputs.ws.double()) * statistics.std / std
    close(v.double(), expected)


def test_sphere_radius(tiny_generator, inputs):
    lens = lens_of("p-norm+", {"sphere": True}, tiny_generator)
    variables = disturbed(lens.encode(inputs))
    lens.project_(variables)
    close(variables["v"].norm(dim=2), torch.full((3, 8), 4.0), rtol=1e-5, atol=1e-5)


def test_noise_is_held_at_mean_0_and_std_1(tiny_generator, inputs):
    lens = lens_of("noise", {"max_resolution": 16}, tiny_generator)
    variables = {name: 3 * v + 1 for name, v in lens.encode(inputs).items()}
    lens.project_(variables)
    assert set(variables) == {n for n, size in tiny_generator.noise_shapes.items() if max(size) <= 16}
    for v in variables.values():
        close(v.mean(dim=(1, 2, 3)), torch.zeros(3), rtol=0, atol=1e-6)
        close(v.square().mean(dim=(1, 2, 3)), torch.ones(3), rtol=1e-5, atol=1e-5)


def test_noise_starts_from_the_stored_maps(tiny_generator, tiny_inputs):
    variables = lens_of("noise", {}, tiny_generator).encode(tiny_inputs)
    stored = tiny_generator.noise_const["b8.conv0"]
    stored = (stored - stored.mean()) / stored.var(unbiased=False).sqrt()
    close(variables["b8.conv0"], stored.expand(3, -1, -1, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["w", "p-norm"])
def test_one_code_for_all_layers_is_the_mean_of_the_rows(name, tiny_generator, inputs):
    lens = lens_of(name, {}, tiny_generator)
    ws = lens.decode(lens.encode(inputs), inputs).ws
    close(ws, inputs.ws.mean(dim=1, keepdim=True).expand(-1, 8, -1), rtol=1e-4, atol=1e-4)


def test_z_stays_on_its_sphere(tiny_generator, inputs):
    for sphere in (True, False):
        lens = lens_of("z", {"sphere": sphere}, tiny_generator)
        variables = {"z": torch.full((2, 16), 5.0)}
        lens.project_(variables)
        assert variables["z"].norm(dim=1).tolist() == pytest.approx([4.0 if sphere else 20.0] * 2)


@pytest.mark.parametrize(
    "options",
    [{key: value} for key in ("clip", "project", "l2") for value in (-1.0, math.nan, math.inf)],
    ids=str,
)
@pytest.mark.parametrize("name", ["p-norm+", "w+", "w"])
def test_constraints_that_cannot_be_meant(name, options, tiny_generator):
    with pytest.raises(UsageError, match=f"{next(iter(options))} must be a number of at least 0"):
        lens_of(name, options, tiny_generator)


@pytest.mark.parametrize("other", [{"clip": 2.0}, {"project": 2.0}], ids=str)
def test_a_sphere_is_not_joined_with_a_bound(other, tiny_generator):
    with pytest.raises(UsageError, match="sphere cannot be joined"):
        lens_of("p-norm+", {"sphere": True, **other}, tiny_generator)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_the_generator_has_not(label):
    with pytest.raises(UsageError, match=f"label must be from 0 to 2, not {label}"):
        lens_of("z", {"label": label}, make_tiny_generator(3, c_dim=3, channels=(6, 4), z_dim=8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_z_is_found_in_float64_on_the_cpu(dtype, c_dim, monkeypatch):
    """Some devices have no float64, so nothing may be made float64 before it was brought to the CPU."""
    generator = make_tiny_generator(3, c_dim=c_dim, channels=(6, 4), z_dim=8)
    lens, ws = lens_of("z", {}, generator), generator.broadcast(generator.w_avg[None]).to(dtype)
    cpu, double, solve, brought, solved = Tensor.cpu, Tensor.double, torch.linalg.svd, [], []

    def to_cpu(self):
        brought.append(cpu(self))
        return brought[-1]

    def to_double(self):
        assert any(self is x for x in brought)
        return double(self)

    def svd(matrix, **options):
        solved.append((matrix.dtype, matrix.device.type))
        return solve(matrix, **options)

    monkeypatch.setattr(Tensor, "cpu", to_cpu)
    monkeypatch.setattr(Tensor, "double", to_double)
    monkeypatch.setattr(torch.linalg, "svd", svd)
    z = lens.encode(GeneratorInputs(ws))["z"]
    assert (z.shape, z.dtype, z.device) == ((1, 8), dtype, ws.device)
    assert len(solved) >= 3
    assert set(solved) == {(torch.float64, "cpu")}


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 17}, {"std_floor": 2.0}], ids=str)
def test_bases_that_cannot_be_meant(options, tiny_generator):
    with pytest.raises(StatisticsError):
        lens_of("p-norm+", options, tiny_generator)


def test_statistics_of_another_generator_are_not_taken(tmp_path, statistics, tiny_generator, monkeypatch):
    """Named, they are refused; the generator's own are measured on the spot and kept beside them."""
    monkeypatch.setattr("latentopt.statistics.pnorm_measure.SAMPLES", 500)
    folder, other = tmp_path / "pnorm_stats", make_tiny_generator(7)
    (folder / "tiny.metric.safetensors").unlink()
    with pytest.raises(StatisticsError, match="fit-pnorm"):
        lens_of("p-norm+", {"stats": str(folder / "tiny.safetensors")}, other)
    lens_of("w+", {}, other)  # needs none
    assert len(list(folder.iterdir())) == 1
    lens_of("p-norm+", {}, other)
    assert sorted(p.name for p in folder.iterdir()) == [f"tiny-{other.fingerprint}.safetensors", "tiny.safetensors"]
    assert PNorm.load(folder / "tiny.safetensors", tiny_generator).n == statistics.n
    lens_of("w+", {"clip": 1.0}, other)
    assert len(list(folder.iterdir())) == 2, "measured once"
