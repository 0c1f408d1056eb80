"""The terms of the loss, against hand computation, the `lpips` package and an existing implementation."""

from __future__ import annotations

import pickle
import urllib.error
import warnings
from dataclasses import replace
from pathlib import Path

import lpips
import pytest
import torch
import torchvision
from conftest import REFERENCE, make_tiny_generator
from safetensors.torch import load_file
from torch import Tensor

from latentopt.errors import CheckpointError, LatentoptError, MissingWeightsError, UsageError
from latentopt.perceptual import features as perceptual
from latentopt.perceptual.lpips_network import load_lpips
from latentopt.perceptual.network import load_perceptual_net, perceptual_distance, weights_hash
from latentopt.protocols import Term
from latentopt.registry import TERMS
from latentopt.statistics.pnorm import PNorm
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs, View

CASES = [(name, options) for name in TERMS for options in TERMS.declared(name).examples]


def random_images(seed: int, n: int = 3, size: int = 32) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def target() -> Tensor:
    return random_images(1)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return random_images(2)


@pytest.fixture
def statistics(tmp_path, monkeypatch, tiny_generator) -> PNorm:
    """Statistics of the tiny generator, in the current folder."""
    from latentopt.statistics.pnorm_fit import fit_pnorm

    pnorm = fit_pnorm(tiny_generator, 2000, batch=1000)
    pnorm.save(tmp_path / "pnorm_stats" / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)
    return pnorm


def view(
    image: Tensor,
    target: Tensor,
    inputs: GeneratorInputs | None = None,
    mask: Tensor | None = None,
    seeds: tuple[int, ...] = (),
) -> View:
    inputs = GeneratorInputs(torch.zeros(len(image), 8, 16)) if inputs is None else inputs
    return View(image, target, inputs, {}, 0.0, mask, seeds)


def seen(term: Term, generator, shown: View, before: GeneratorInputs) -> View:
    """The view with what the term looks at of the generator, and with what it remembers of other inputs."""
    with torch.no_grad():
        old = generator.activations_of(before, term.activations) if term.activations else {}
    new = generator.activations_of(shown.inputs, term.activations) if term.activations else {}
    mask = torch.zeros_like(shown.image[:, :1]) if term.activations else shown.mask
    first = replace(shown, features=old, mask=mask)
    return replace(first, features=new, remembered=term.follow(first))


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda x: str(x))
def test_terms_are_one_number_an_image_that_picking_images_does_not_change(
    name, options, tiny_generator, tiny_inputs, image, target, statistics
):
    """[B], finite, with a gradient; the rows of a term are the term of the rows."""
    rng = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(3, 1, *size, generator=rng) for name, size in tiny_generator.noise_shapes.items()}
    deltas = {"synthesis.b8.conv0.weight": torch.randn(3, 10, 12, 3, 3, generator=rng)}
    inputs = tiny_inputs.replace(noise=noise, deltas=deltas)
    leaves = inputs.map(lambda x: x.clone().requires_grad_())
    shown = image.clone().requires_grad_()
    term = TERMS.create(name, tiny_generator, target, **options)
    before = inputs.replace(ws=inputs.ws.flip(0) + 1)
    value = term(seen(term, tiny_generator, view(shown, target, leaves, seeds=(5, 6, 7)), before))
    assert value.shape == (3,)
    assert (value > 0).all()
    value.sum().backward()
    given = (shown, leaves.ws, *leaves.noise.values(), *leaves.deltas.values())
    gradients = [x.grad for x in given if x.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    rows = torch.tensor([2, 0])
    made = TERMS.create(name, tiny_generator, target[rows], **options)
    for other in (term.index(rows), made):
        picked_view = view(image[rows], target[rows], inputs.index(rows), seeds=(7, 5))
        picked = other(seen(other, tiny_generator, picked_view, before.index(rows)))
        torch.testing.assert_close(picked, value[rows].detach(), rtol=1e-5, atol=1e-7)
    again = term.index(rows).index(torch.tensor([1]))
    last = seen(again, tiny_generator, view(image[:1], target[:1], inputs.index([0]), seeds=(5,)), before.index([0]))
    torch.testing.assert_close(again(last), value[:1].detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [("l2", None, 1.0), ("l1", None, 1.0), ("l2", 1, 0.25), ("l1", 1, 0.5), ("l2", 2, 1.0), ("l2", 99, 1.0)],
)
def test_pixel_terms_by_hand(name, size, expected, tiny_generator):
    """A 2x2 image whose difference is 1, 1, 1, -1: at one pixel it is 0.5."""
    difference = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).expand(1, 3, 2, 2)
    target = torch.full((1, 3, 2, 2), 0.25)
    term = TERMS.create(name, tiny_generator, target, size=size)
    assert term(view(target + difference, target)).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["l2", "l1"])
@pytest.mark.parametrize("size", [0, -1])
def test_sizes_of_no_pixel(name, size, tiny_generator, target):
    with pytest.raises(UsageError, match=f"size must be at least 1 pixel, not {size}"):
        TERMS.create(name, tiny_generator, target, size=size)


def test_pixel_terms_of_a_wide_image(tiny_generator):
    target, image = torch.zeros(1, 3, 4, 8), torch.ones(1, 3, 4, 8)
    assert TERMS.create("l2", tiny_generator, target, size=2)(view(image, target)).item() == pytest.approx(1.0)


def test_pixel_terms_are_means_over_the_mask(tiny_generator):
    """The loop has set the image to the target outside the mask: a difference of 2 inside is 4, whatever its size."""
    target = torch.zeros(2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, 0] = 1
    mask[1, :, :2] = 1
    shown = view(target + 2 * mask, target, mask=mask)
    assert TERMS.create("l2", tiny_generator, target)(shown).tolist() == pytest.approx([4, 4])
    assert TERMS.create("l1", tiny_generator, target)(shown).tolist() == pytest.approx([2, 2])
    nothing = view(target, target, mask=torch.zeros(2, 1, 4, 4))
    assert TERMS.create("l2", tiny_generator, target)(nothing).tolist() == [0, 0]


def test_what_is_cut_when_it_is_saved_costs_nothing(tiny_generator):
    """Only beyond an end of the target's range, and only on its outer side; there is no gradient from there either."""
    target = torch.tensor([[1.0, -1.0, 1.0, 0.5], [1.0, -1.0, 1.0, 0.5]]).reshape(2, 1, 2, 2)
    image = torch.tensor([[1.5, -1.5, 0.5, 0.5], [0.5, -0.5, 0.5, 1.0]]).reshape(2, 1, 2, 2).requires_grad_()
    distance = TERMS.create("saturated-l2", tiny_generator, target)(view(image, target))
    assert distance.tolist() == pytest.approx([0.25 / 4, 0.25])
    distance.sum().backward()
    assert (image.grad[0] == 0).flatten().tolist() == [True, True, False, True]
    assert TERMS.create("l2", tiny_generator, target)(view(image, target))[0] > distance[0]


@pytest.mark.parametrize(("name", "expected"), [("l2", [4.0, (4 + 4) / 1.25]), ("l1", [2.0, (2 + 2) / 1.5])])
def test_a_soft_mask_weighs_pixels(name, expected, tiny_generator):
    """Half a mask everywhere is no mask; a difference of 2 that counts whole and one of 4 that counts half."""
    mask = torch.tensor([[0.5, 0.5], [1.0, 0.5]])[:, None, None]  # [2,1,1,2]
    difference = torch.tensor([[2.0, 2.0], [2.0, 4.0]])[:, None, None]
    target = torch.zeros(2, 3, 1, 2)
    term = TERMS.create(name, tiny_generator, target)
    assert term(view(target + mask * difference, target, mask=mask)).tolist() == pytest.approx(expected)


# Perceptual


@pytest.mark.parametrize("size", [0, 15])
def test_perceptual_sizes_too_small_for_the_network(size, tiny_generator, target):
    with pytest.raises(UsageError, match=f"perceptual size must be at least 16 pixels, not {size}"):
        TERMS.create("perceptual", tiny_generator, target, net="bundled", size=size)


def test_the_network_is_on_record(tiny_generator, target):
    """By its weights, not by its name alone; picking images keeps it. Terms without a network have none."""
    net = load_perceptual_net("portraits")
    term = TERMS.create("perceptual", tiny_generator, target, net="bundled")
    assert term.network == term.index(torch.tensor([0])).network == f"bundled {weights_hash(net)}"
    next(net.parameters()).data[0] += 1e-3
    assert term.network != f"bundled {weights_hash(net)}"
    assert TERMS.create("l2", tiny_generator, target).network == ""


def test_bundled_distance(tiny_generator, image, target):
    net = load_perceptual_net("portraits")
    term = TERMS.create("perceptual", tiny_generator, target, net="bundled")
    expected = perceptual_distance(net, net.features(image), net.features(target))
    torch.testing.assert_close(term(view(image, target)), expected)
    assert term(view(target, target)).abs().max() < 1e-6
    assert not any(p.requires_grad for p in net.parameters())


def test_large_images_are_shrunk_before_they_are_compared(tiny_generator):
    """128 pixels become 64 for the bundled network: 2x2 means."""
    small_a, small_b = random_images(3, 1, 64), random_images(4, 1, 64)
    a, b = (x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (small_a, small_b))
    large = TERMS.create("perceptual", tiny_generator, b, net="bundled")(view(a, b))
    small = TERMS.create("perceptual", tiny_generator, small_b, net="bundled")(view(small_a, small_b))
    torch.testing.assert_close(large, small)


def test_auto_takes_the_bundled_network_for_the_bundled_generator(image, target, tiny_generator, monkeypatch):
    asked = []

    def missing(backbone, weights):
        asked.append(backbone)
        raise MissingWeightsError("none")

    monkeypatch.setattr(perceptual, "load_lpips", missing)
    bundled = make_tiny_generator()
    bundled.card = {"data": "portraits"}
    explicit = TERMS.create("perceptual", tiny_generator, target, net="bundled")(view(image, target))
    assert torch.equal(TERMS.create("perceptual", bundled, target)(view(image, target)), explicit)
    with pytest.raises(MissingWeightsError):
        TERMS.create("perceptual", tiny_generator, target)
    with pytest.raises(MissingWeightsError):
        TERMS.create("perceptual", tiny_generator, target, net="lpips-alex")
    assert asked == ["vgg", "alex"]


def test_unknown_networks_are_refused(tiny_generator, target):
    with pytest.raises(UsageError, match="lpips-vgg, lpips-alex"):
        TERMS.create("perceptual", tiny_generator, target, net="vgg")


@pytest.fixture
def random_lpips(monkeypatch) -> torch.nn.Module:
    """LPIPS with an untrained Alex backbone and the published linear layers, where the weights would be downloaded."""
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().requires_grad_(False)
    monkeypatch.setattr(perceptual, "load_lpips", lambda backbone, weights: model)
    return model


def test_lpips_is_what_the_package_computes(tiny_generator, random_lpips):
    a, b = random_images(5, 2, 64), random_images(6, 2, 64)
    term = TERMS.create("perceptual", tiny_generator, b, net="lpips-alex")
    torch.testing.assert_close(term(view(a, b)), random_lpips(a, b)[:, 0, 0, 0], rtol=1e-5, atol=1e-7)
    rows = torch.tensor([1])
    torch.testing.assert_close(term.index(rows)(view(a[1:], b[1:])), random_lpips(a, b)[1:, 0, 0, 0])


@pytest.mark.filterwarnings("error")
def test_lpips_without_its_weights(tiny_generator, target, monkeypatch, tmp_path):
    """No warning either: that the package asks torchvision in a deprecated way is nothing a user can change."""

    def offline(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    for net in ("lpips-vgg", "lpips-alex"):
        with pytest.raises(MissingWeightsError, match=r"could not be downloaded.*copy torchvision's file") as caught:
            TERMS.create("perceptual", tiny_generator, target, net=net)
        assert caught.value.network == net and f"{tmp_path}/hub/checkpoints/" in str(caught.value)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    """What torchvision's file of AlexNet holds, with numbers of our own."""
    network = torchvision.models.alexnet(weights=None).features.state_dict()
    rng = torch.Generator().manual_seed(9)
    state = {f"features.{name}": torch.randn(x.shape, generator=rng) * 0.03 for name, x in network.items()}
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, path)
    return path


def test_lpips_with_weights_from_a_file(tiny_generator, alexnet, random_lpips, monkeypatch):
    """torchvision's backbone, the package's own linear layers; nothing is downloaded."""
    lines = random_lpips.lins.state_dict()
    monkeypatch.undo()
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    model, state = load_lpips("alex", str(alexnet)), torch.load(alexnet)
    backbone = {f"features.{name.split('.', 1)[1]}": x for name, x in model.net.named_parameters()}
    assert backbone.keys() == state.keys() - {"classifier.6.bias"}
    assert all(torch.equal(x, state[name]) for name, x in backbone.items())
    assert all(torch.equal(x, lines[name]) for name, x in model.lins.state_dict().items())
    assert not model.training
    assert not any(x.requires_grad for x in model.parameters())
    a, b = random_images(5, 2, 64), random_images(6, 2, 64)
    term = TERMS.create("perceptual", tiny_generator, b, net="lpips-alex", weights=str(alexnet))
    torch.testing.assert_close(term(view(a, b)), model(a, b)[:, 0, 0, 0], rtol=1e-5, atol=1e-7)
    assert term.network == f"lpips-alex {weights_hash(model)}"


WRONG_WEIGHTS = {
    "missing.pth": lambda path: None,
    "text.pth": lambda path: path.write_text("hello"),
    "list.pth": lambda path: torch.save([torch.zeros(2)], path),
    "names.pth": lambda path: torch.save({"conv.weight": torch.zeros(2)}, path),
    "shapes.pth": lambda path: torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path),
    "values.pth": lambda path: torch.save({"features.0.weight": "hello"}, path),
    "pickle.pth": lambda path: path.write_bytes(pickle.dumps({"features.0.weight": Path}, protocol=2)),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_weights_that_are_none(name, tiny_generator, target, tmp_path):
    WRONG_WEIGHTS[name](tmp_path / name)
    with pytest.raises(LatentoptError, match=name) as caught:
        TERMS.create("perceptual", tiny_generator, target, net="lpips-alex", weights=str(tmp_path / name))
    assert isinstance(caught.value, CheckpointError) or name == "pickle.pth"


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_damaged_weights_in_the_cache(damage, tiny_generator, target, monkeypatch, tmp_path, alexnet):
    """As a download leaves them that was killed; torchvision does not look at what lies there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    cached = tmp_path / "hub" / "checkpoints" / Path(torchvision.models.AlexNet_Weights.DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    whole = alexnet.read_bytes()
    cached.write_bytes({"text": b"<html>not found</html>", "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(MissingWeightsError, match=rf"copy under {tmp_path}.* is damaged"):
        TERMS.create("perceptual", tiny_generator, target, net="lpips-alex")


# Priors


def test_noise_autocorrelation_by_hand(tiny_generator):
    """Stripes of period 2 along one axis: neighbours across correlate -1, along +1: 1 + 1, at a single level of 4x4."""
    stripes = torch.tensor([1.0, -1.0]).repeat(2).expand(1, 1, 4, 4)
    term = TERMS.create("noise", tiny_generator, torch.zeros(1, 3, 4, 4))
    inputs = GeneratorInputs(torch.zeros(1, 8, 16), noise={"b4.conv1": stripes})
    assert term(view(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), inputs)).tolist() == [2.0]


def test_noise_autocorrelation_of_a_pyramid(tiny_generator):
    """Over 32, 16 and 8 pixels, by loops over pixels; two maps add up."""
    maps = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(7))
    small = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(8))

    def correlation(x: list[list[float]]) -> float:
        n = len(x)
        down = sum(x[i][j] * x[i - 1][j] for i in range(n) for j in range(n)) / n**2
        across = sum(x[i][j] * x[i][j - 1] for i in range(n) for j in range(n)) / n**2
        return down**2 + across**2

    def halved(x: list[list[float]]) -> list[list[float]]:
        n = range(len(x) // 2)
        return [[sum(x[2 * i + a][2 * j + b] for a in (0, 1) for b in (0, 1)) / 4 for j in n] for i in n]

    expected = []
    for i in range(2):
        first = maps[i, 0].tolist()
        second = halved(first)
        expected.append(sum(map(correlation, (first, second, halved(second), small[i, 0].tolist()))))
    inputs = GeneratorInputs(torch.zeros(2, 8, 16), noise={"b32.conv1": maps, "b8.conv1": small})
    images = torch.zeros(2, 3, 32, 32)
    value = TERMS.create("noise", tiny_generator, images)(view(images, images, inputs))
    assert value.tolist() == pytest.approx(expected, rel=1e-4)


def test_noise_term_without_noise_is_zero(tiny_generator, image, target):
    assert TERMS.create("noise", tiny_generator, target)(view(image, target)).tolist() == [0, 0, 0]


def test_p_norm_is_about_1_for_the_generators_own_codes(tiny_generator, statistics):
    w = tiny_generator.mapping(torch.randn(500, 16, generator=torch.Generator().manual_seed(3)))
    images = torch.zeros(500, 3, 1, 1)
    term = TERMS.create("p-norm", tiny_generator, images)
    value = term(view(images, images, GeneratorInputs(tiny_generator.broadcast(w))))
    assert value.mean().item() == pytest.approx(1.0, abs=0.1)


def test_the_spread_of_the_rows(tiny_generator, statistics):
    """None for one code in every row; for two halves a distance of 2 apart, 1 at every component."""
    images = torch.zeros(3, 3, 1, 1)
    term = TERMS.create("rows-spread", tiny_generator, images)
    w = tiny_generator.mapping(torch.randn(3, 16, generator=torch.Generator().manual_seed(3)))
    assert term(view(images, images, GeneratorInputs(tiny_generator.broadcast(w)))).abs().max() < 1e-4
    rows = torch.arange(tiny_generator.num_ws)[:, None] % 2 * 2.0
    v = term.basis.whiten(w)[:, None] + rows
    expected = rows.var(correction=0) * v.shape[2]
    value = term(view(images, images, GeneratorInputs(term.basis.unwhiten(v))))
    torch.testing.assert_close(value, expected.expand(3), rtol=1e-3, atol=0)


def test_p_norm_equals_an_existing_implementation(tmp_path):
    """Barbershop's loss, 0.001 times ours, and its gradient, on real codes."""
    data = load_file(REFERENCE / "pspace" / "pspace.safetensors")
    path = tmp_path / "peer.safetensors"
    PNorm(data["f64/mean"], data["f64/comp"], data["f64/stdev"]).save(path)
    codes = data["io/codes"].clone().requires_grad_()
    images = torch.zeros(4, 3, 1, 1)
    term = TERMS.create("p-norm", make_tiny_generator(w_dim=24), images, stats=str(path))
    value = term(view(images, images, GeneratorInputs(codes)))
    torch.testing.assert_close(0.001 * value, data["peer/p_norm_loss"], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(0.001 * value[2], codes)
    expected = data["peer/grad_p_norm_loss_code2"][0]
    torch.testing.assert_close(gradient[2], expected, rtol=0, atol=2e-3 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["inside", "outside"])
def test_what_the_generator_cannot_draw_is_told_apart(name, tiny_generator):
    """Its own pictures are inside but for a few places, stripes are outside; each term sees its part alone."""
    w = sample_w(tiny_generator, 5, 3)
    plain = tiny_generator.synthesis(GeneratorInputs(tiny_generator.broadcast(w))).clamp(-1, 1)
    striped = plain.clone()
    striped[:, :, 8:24, 8:24] = torch.tensor([-1.0, 1.0]).repeat(8)
    inside = TERMS.create("inside", tiny_generator, striped, net="bundled").weight
    patch, corner = inside[:, :, 10:22, 10:22].mean(), inside[:, :, 28:, 28:].mean()
    assert patch < 0.3 < 0.7 < corner
    assert TERMS.create("inside", tiny_generator, plain, net="bundled").weight.mean() > inside.mean() + 0.2
    term = TERMS.create(name, tiny_generator, striped, net="bundled", lpips=0.0)
    weight = inside if name == "inside" else 1 - inside
    moved = striped + torch.rand(striped.shape, generator=torch.Generator().manual_seed(3)) - 0.5
    expected = (weight * (moved - striped)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(term(view(moved, striped)), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"samples": 1}, "samples must be at least"), ({"share": 0.0}, "share is a part"), ({"share": 1.1}, "share is a")],
)
def test_domains_that_cannot_be_meant(options, words, tiny_generator, target):
    with pytest.raises(UsageError, match=words):
        TERMS.create("outside", tiny_generator, target, net="bundled", **options)


def test_a_domain_is_one_of_whole_pictures(tiny_generator, target):
    with pytest.raises(UsageError, match=r"not in measurements \[3, 8, 8\]: take another recipe for this operator"):
        TERMS.create("inside", tiny_generator, target[..., :8, :8], net="bundled")
