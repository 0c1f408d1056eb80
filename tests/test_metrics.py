"""Each metric against another implementation or a case whose answer is known."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import lpips
import numpy as np
import pytest
import torch
import torchvision
from scipy import ndimage
from scipy.stats import wasserstein_distance
from torchmetrics.functional.image import perceptual_path_length
from torchmetrics.image.kid import poly_mmd
from torchvision.models.vgg import cfgs, make_layers

from latentopt.editing.direction import Direction
from latentopt.errors import MissingWeightsError, StatisticsError
from latentopt.evaluation import path_length, sliced_wasserstein
from latentopt.evaluation.distribution import paired_squared_mmd, squared_mmd
from latentopt.evaluation.editing_consistency import editing_distances, lec, trimmed_lec
from latentopt.evaluation.image_metrics import PerceptualDistance, distortion, identity
from latentopt.evaluation.latents import EDGES, density, latent_variation, outliers, pnorm_radius
from latentopt.evaluation.measure import bootstrap_interval, jackknife_interval, measure_mean, measure_ratio
from latentopt.evaluation.mixtures import others
from latentopt.evaluation.responses import coordinate, placed
from latentopt.perceptual import features as perceptual
from latentopt.perceptual.network import weights_hash
from latentopt.perceptual.vgg import VGGDistance
from latentopt.pictures.images import to_uint8
from latentopt.results.distortion import PSNR_CAP, metrics
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.types import GeneratorInputs


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- pictures


def test_distortion_by_hand():
    """One level of 255 everywhere; another image whose half is off by 51 levels."""
    target = torch.full((2, 3, 16, 16), -1.0)
    image = target.clone()
    image[0] += 2 / 255
    image[1, :, :8] += 2 * 51 / 255
    values = distortion(image, target)
    assert values["mse"].tolist() == pytest.approx([1 / 255**2, 0.04 / 2])
    assert values["rmse"].tolist() == pytest.approx([1 / 255, (0.04 / 2) ** 0.5])
    assert values["psnr"].tolist() == pytest.approx([20 * np.log10(255), 10 * np.log10(50)])


def test_distortion_is_that_of_the_saved_pictures():
    """Less than half a level, and what is beyond the range, does not count."""
    image = torch.full((1, 3, 16, 16), 1.0)
    values = distortion(image + 0.7, image - 0.9 / 255)
    assert values["mse"].item() == 0
    assert values["psnr"].item() == PSNR_CAP
    assert values["ssim"].item() == pytest.approx(1)
    assert values["ms_ssim"].item() == pytest.approx(1)


def test_psnr_and_ssim_agree_with_the_project_s_own():
    target = pictures(3, 3, 40, 24)
    image = (target + 0.3 * normal(3, 3, 40, 24)).clamp(-1, 1)
    ours = metrics(image, target)
    for name, value in ours.items():
        torch.testing.assert_close(distortion(image, target)[name].float(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "scales"), [(176, 181, 5), (64, 64, 3), (30, 48, 2), (11, 40, 1)])
def test_ms_ssim_is_that_of_scipy_s_filters(height, width, scales):
    """Wang et al. 2003: contrasts of the finer pictures (inside the window), SSIM of the coarsest; halved by
    means of 2x2.
    """
    target = torch.from_numpy(ndimage.gaussian_filter(normal(2, 3, height, width).numpy(), (0, 0, 1, 1)))
    image = (target + 0.2 * normal(2, 3, height, width, seed=1)).clamp(-1, 1)
    window = np.exp(-(np.arange(-5.0, 6) ** 2) / 4.5)

    def blur(a):
        for axis in (-1, -2):
            a = ndimage.correlate1d(a, window / window.sum(), axis=axis, mode="mirror")
        return a

    weights = np.array((0.0448, 0.2856, 0.3001, 0.2363, 0.1333))[:scales]
    x, y = (to_uint8(a).transpose(0, 3, 1, 2) / 255 for a in (image, target))
    expected = 1.0
    for k, weight in enumerate(weights / weights.sum()):
        mx, my = blur(x), blur(y)
        contrast = (2 * (blur(x * y) - mx * my) + 9e-4) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + 9e-4)
        luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
        part = contrast * luminance if k == scales - 1 else contrast[..., 5:-5, 5:-5]
        expected = expected * part.mean(axis=(1, 2, 3)) ** weight
        h, w = (side // 2 * 2 for side in x.shape[-2:])
        x, y = (a[..., :h, :w].reshape(2, 3, h // 2, 2, w // 2, 2).mean(axis=(3, 5)) for a in (x, y))
    assert distortion(image, target)["ms_ssim"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(("side", "missing"), [(5, {"ssim", "ms_ssim"}), (8, {"ms_ssim"}), (11, set())])
def test_windows_that_do_not_fit_are_left_out(side, missing):
    x = pictures(1, 3, side, side)
    assert {"ssim", "ms_ssim"} - set(distortion(x, x)) == missing


def test_lpips_is_the_package_s(tiny_generator, monkeypatch):
    with warnings.catch_warnings(action="ignore"):
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().requires_grad_(False)
    monkeypatch.setattr(perceptual, "load_lpips", lambda backbone, weights: model)
    distance = PerceptualDistance(tiny_generator, "lpips-alex")
    a, b = pictures(2, 2, 3, 32, 32)
    torch.testing.assert_close(distance(a, b), model(a, b).flatten(), rtol=1e-5, atol=1e-7)
    assert distance.name == f"lpips-alex {weights_hash(model)}, pictures of at most 256 pixels"


def test_bundled_distance_is_zero_for_equal_pictures_only(tiny_generator):
    distance = PerceptualDistance(tiny_generator, "bundled")
    a, b = pictures(2, 2, 3, 32, 32)
    assert distance(a, a).tolist() == [0, 0]
    assert (distance(a, b) > 0).all()
    torch.testing.assert_close(distance(a, b), distance(b, a))


@pytest.fixture
def vgg16(monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SimpleNamespace(features=make_layers(cfgs["D"]).eval())
        for layer in net.features:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)  # else deep layers hardly count
    monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: net)
    return net


def test_vgg_is_image2stylegan_s(vgg16):
    """Equation 2 by hooks on torchvision's network, on pictures normalised as torchvision does it."""
    seen = []
    for k in (0, 2, 12, 19):
        vgg16.features[k].register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    a, b = pictures(2, 2, 3, 32, 32)
    found = VGGDistance()(a, b)
    del seen[:]
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        vgg16.features[:20](normalise((a + 1) / 2))
        first = [*seen]
        del seen[:]
        vgg16.features[:20](normalise((b + 1) / 2))
    expected = sum(((x - y) ** 2).flatten(1).sum(1) / x[0].numel() for x, y in zip(first, seen, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_vgg_without_its_weights(monkeypatch):
    def missing(weights):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models, "vgg16", missing)
    with pytest.raises(MissingWeightsError, match="no network"):
        VGGDistance()


def test_identity_is_the_cosine():
    vectors = {0.0: [1.0, 0.0], 1.0: [0.6, 0.8]}

    def embed(image):
        return torch.tensor([vectors[x.item()] for x in image.mean(dim=(1, 2, 3))])

    black, grey = torch.zeros(2, 3, 4, 4), torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert identity(embed, black, grey).tolist() == pytest.approx([1.0, 0.6])


# ---- sets


@pytest.mark.parametrize("m", [12, 30])
def test_squared_mmd_is_torchmetrics(m):
    def kernel(a, b):
        return (a @ b.T / 5 + 1) ** 3

    x, y = normal(12, 5).double(), 0.5 + normal(m, 5, seed=1).double()
    pairs = [kernel(a, a) for a in (x, y)]
    within = [k[~torch.eye(len(k), dtype=torch.bool)].mean().item() for k in pairs]
    assert squared_mmd(x, y) == pytest.approx(sum(within) - 2 * kernel(x, y).mean().item())
    if m == 12:
        assert squared_mmd(x, y) == pytest.approx(poly_mmd(x, y).item())


def test_paired_squared_mmd_is_zero_for_equal_sets():
    x = normal(9, 4).double()
    assert paired_squared_mmd(x, x) == 0
    assert paired_squared_mmd(x, x + 1) > 0.1


@pytest.mark.parametrize(("side", "levels"), [(64, 3), (32, 2), (16, 1), (48, 2)])
def test_pyramid_is_scipy_s(side, levels):
    """Karras et al.'s: their filter by scipy.ndimage, mirrored; summed up again it is the picture."""
    kernel = np.array([1, 4, 6, 4, 1.0]) / 16
    weights = np.outer(kernel, kernel)[None, None]
    image = 255 * pictures(2, 3, side, side).numpy()
    found = sliced_wasserstein.pyramid(torch.from_numpy(image))
    assert len(found) == levels
    rest = image
    for k in range(levels - 1):
        small = ndimage.convolve(rest, weights, mode="mirror")[..., ::2, ::2]
        spread = np.zeros_like(rest)
        spread[..., ::2, ::2] = small
        up = ndimage.convolve(spread, 4 * weights, mode="mirror")
        np.testing.assert_allclose(found[k].numpy(), rest - up, atol=2e-3)
        rest = small
    np.testing.assert_allclose(found[-1].numpy(), rest, atol=2e-3)


def test_sliced_wasserstein_in_one_dimension_is_scipy_s():
    """Every direction of a line is +-1."""
    a, b = normal(200, 1), 2 * normal(200, 1, seed=1) + 1
    expected = wasserstein_distance(a.flatten().numpy(), b.flatten().numpy())
    assert sliced_wasserstein.sliced_wasserstein(a, b) == pytest.approx(expected, rel=1e-5)


def test_sliced_wasserstein_of_a_shift():
    """A shift by d moves every projection by its component: the mean of |u.d| is |d| Gamma(n/2) / (sqrt(pi)
    Gamma((n+1)/2)).
    """
    a, shift = normal(50, 3), torch.tensor([0.0, 3.0, 4.0])
    assert sliced_wasserstein.sliced_wasserstein(a, a + shift) == pytest.approx(5 / 2, rel=0.08)


def test_patches_are_standardised_and_lie_within():
    level = torch.arange(2 * 3 * 16 * 16.0).reshape(2, 3, 16, 16)
    found = sliced_wasserstein.standardised(sliced_wasserstein.patches(level, torch.Generator().manual_seed(0)))
    assert found.shape == (2, 128, 147)
    by_channel = found.reshape(2, 128, 3, 49)
    assert by_channel.mean(dim=(0, 1, 3)).abs().max() < 1e-4
    assert by_channel.std(dim=(0, 1, 3), correction=0).tolist() == pytest.approx([1, 1, 1], rel=1e-4)
    steps = by_channel[0, 0, 0].reshape(7, 7)  # a ramp stays one: 16 times as steep down as across
    assert (steps.diff(dim=0).mean() / steps.diff(dim=1).mean()).item() == pytest.approx(16, rel=1e-3)


def test_picture_swd_tells_textures_apart():
    noise, smooth = pictures(6, 3, 32, 32), 0.5 * pictures(6, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    same, error = sliced_wasserstein.picture_swd(noise, pictures(6, 3, 32, 32, seed=1))
    far, _ = sliced_wasserstein.picture_swd(noise, smooth)
    assert far > 1.4 * same
    assert 0 < error < far - same
    assert sliced_wasserstein.picture_swd(noise, smooth)[0] == far
    assert sliced_wasserstein.picture_swd(noise, smooth, splits=0) == (far, 0.0)
    with pytest.raises(StatisticsError, match="cannot be compared"):
        sliced_wasserstein.picture_swd(noise, smooth[:3])


# ---- intervals


def test_bootstrap_of_a_mean_has_the_width_of_theory():
    x = normal(400, seed=3).double()
    low, high = bootstrap_interval(x)
    assert high - low == pytest.approx(2 * 1.96 * x.std().item() / 20, rel=0.1)
    assert low < x.mean() < high
    assert bootstrap_interval(x) == (low, high)
    assert bootstrap_interval(x, seed=1) != (low, high)


def test_the_interval_of_a_ratio_knows_that_both_vary_together():
    """Ten times the denominator, always: the ratio is 10, without doubt."""
    below = 1 + normal(30).abs()
    measure = measure_ratio("x", 10 * below, below)
    assert (measure.value, measure.low, measure.high) == (pytest.approx(10),) * 3
    noisy = measure_ratio("x", 10 * below + normal(30, seed=1), below)
    assert noisy.low < noisy.value < noisy.high
    assert noisy.value == pytest.approx(((10 * below + normal(30, seed=1)).sum() / below.sum()).item())


def test_a_single_image_has_no_interval():
    measure = measure_mean("psnr", torch.tensor([21.5]), better="higher")
    assert (measure.value, measure.low, measure.high, measure.n) == (21.5, None, None, 1)
    with pytest.raises(ValueError, match="psnr"):
        measure_mean("psnr", torch.tensor([]))


def test_images_that_could_not_be_read_do_not_count():
    nan = float("nan")
    measure = measure_mean("x", torch.tensor([1.0, nan, 3.0, 8.0]), note="odd")
    assert (measure.value, measure.n, measure.note) == (4, 3, "odd; 1 of 4 images could not be read")
    assert (measure.low, measure.high) == bootstrap_interval(torch.tensor([1.0, 3.0, 8.0]))
    assert measure_ratio("x", torch.tensor([1.0, 5.0]), torch.tensor([nan, 2.0])).value == 2.5
    none = measure_mean("x", torch.tensor([nan, nan]))
    assert (np.isnan(none.value), none.low, none.n) == (True, None, 0)


@pytest.mark.parametrize("value", [0.0, 0.95, 1.0])
def test_intervals_of_shares_stay_shares(value):
    x = torch.linspace(0, 1, 8)
    low, high = jackknife_interval(value, 8, lambda rows: x[rows].mean().item(), bounds=(0, 1))
    assert 0 <= low <= value <= high <= 1
    assert low < high


def test_jackknife_of_a_mean_is_its_standard_error():
    x = normal(15, seed=2).double()
    mean = x.mean().item()
    low, high = jackknife_interval(mean, 15, lambda rows: x[rows].mean().item())
    assert (high - low) / 2 == pytest.approx(1.96 * x.std().item() / 15**0.5)
    assert (low + high) / 2 == pytest.approx(mean)
    assert jackknife_interval(mean, 3, lambda rows: 0.0) == (None, None)


# ---- a generator of which everything is known


class Linear:
    """image = 0.1 matrix (mean over rows of ws), 3x4x4, on no account clamped; mapping: z as it is."""

    name, source, card, fingerprint = "linear", "nowhere", {}, "f" * 16
    resolution, num_ws, w_dim, z_dim, c_dim = (4, 4), 4, 8, 8, 0
    device = torch.device("cpu")
    w_avg = 0.5 * torch.ones(8)
    matrix = normal(48, 8, seed=9)

    def mapping(self, z, c=None):
        return z

    def broadcast(self, w):
        return w[:, None].expand(-1, self.num_ws, -1)

    def synthesis(self, inputs, noise_mode="const"):
        return (inputs.ws.mean(dim=1) @ (0.1 * self.matrix).T.to(inputs.ws)).unflatten(1, (3, 4, 4))

    def invert(self, image):
        """The exact inverse, in W."""
        return self.broadcast(image.flatten(1) @ torch.linalg.pinv(0.1 * self.matrix).T)


@dataclass
class Shift:
    vector: torch.Tensor

    def edit(self, inputs, strength):
        return inputs.replace(ws=inputs.ws + strength * self.vector)


@pytest.fixture
def linear():
    return Linear()


@pytest.fixture
def embedded(linear):
    """Three images' inputs in W, one each."""
    return [GeneratorInputs(3 * x) for x in linear.broadcast(normal(3, 8, seed=4)).split(1)]


# ---- latent editing consistency


def test_lec_of_a_perfect_inverse_is_zero(linear, embedded):
    edit = Shift(normal(8, seed=5))
    distances = editing_distances(linear, embedded, edit, 1.5, lambda images, rows: linear.invert(images))
    assert distances.shape == (3,)
    assert distances.max() < 1e-4
    assert lec(distances) < 1e-4


def test_lec_is_the_norm_of_what_the_inverse_misses(linear, embedded):
    """||w - f^-1(E(G(f(w))))|| over all rows: 2 in one entry of each of 4 rows is 4. The pictures come unclamped."""
    miss = torch.zeros(8)
    miss[3] = 2.0
    seen = []

    def invert(images, rows):
        seen.append((images, list(rows)))
        return linear.invert(images) + miss

    distances = editing_distances(linear, embedded, Shift(normal(8)), -2.0, invert)
    assert distances.tolist() == pytest.approx([4.0] * 3, abs=1e-4)
    assert seen[0][1] == [0, 1, 2]
    assert seen[0][0].abs().max() > 1


def test_lec_undoes_the_edit(linear, embedded):
    """An inverter that always answers the embedding itself misses exactly the edit."""
    vector = normal(8, seed=7)
    own = torch.cat([inputs.ws for inputs in embedded])
    distances = editing_distances(linear, embedded, Shift(vector), 3.0, lambda images, rows: own)
    assert distances.tolist() == pytest.approx([3 * 2 * vector.norm().item()] * 3, rel=1e-5)


def test_trimmed_lec_drops_the_outer_batches():
    """Batches of 8 with means 1 to 5: the first and the last go."""
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0, 50.0]).repeat_interleave(8)
    assert trimmed_lec(distances) == 3
    assert lec(distances) == 12
    assert trimmed_lec(distances[:10]) == pytest.approx((1 + 2) / 2)
    assert trimmed_lec(distances[:5]) == 1


# ---- latents


def test_latent_variation_by_hand(linear):
    """Rows a, a, b, b deviate by |a-b|/2 each: norm |a-b|."""
    ws = torch.stack([torch.zeros(8), torch.zeros(8), torch.ones(8), torch.ones(8)])[None]
    assert latent_variation(ws).item() == pytest.approx(8**0.5)
    assert latent_variation(linear.broadcast(normal(5, 8))).max() < 1e-6


@pytest.fixture(scope="module")
def pnorm(tiny_generator):
    return fit_pnorm(tiny_generator, 4000, batch=1000)


def test_pnorm_radius_and_outliers_of_known_codes(pnorm):
    v = torch.zeros(2, 8, 16, dtype=torch.float64)
    v[0], v[1, :, 0], v[1, :4, 1] = 2.0, 8.0, 3.5
    assert pnorm_radius(pnorm.unwhiten(v), pnorm).tolist() == pytest.approx([2, ((64 + 3.5**2 / 2) / 16) ** 0.5])
    assert outliers(v).tolist() == pytest.approx([0, 1.5 / 16])


def test_the_generator_s_own_samples_have_radius_one(tiny_generator, pnorm):
    ws = tiny_generator.broadcast(tiny_generator.mapping(normal(2000, 16, seed=8)))
    assert pnorm_radius(ws, pnorm).square().mean().sqrt().item() == pytest.approx(1, abs=0.03)


def test_density_keeps_outliers_in_the_outermost_bins():
    values = torch.tensor([-50.0, 0.05, 0.05, 7.0])
    found = torch.tensor(density(values)) * EDGES.diff()
    assert found.sum().item() == pytest.approx(1)
    assert [found[0].item(), found[30].item(), found[-1].item()] == pytest.approx([0.25, 0.5, 0.25], rel=1e-5)


@pytest.mark.parametrize("layers", [None, (0, 2)])
@pytest.mark.parametrize("space", ["w", "w+", "p-norm"])
def test_a_coordinate_is_set_along_a_direction(space, layers):
    vector = normal(4, 8, seed=3) if space == "w+" else normal(8, seed=3)
    direction = Direction("yaw", space, vector, "f", layers=layers)
    inputs, centre = GeneratorInputs(normal(1, 4, 8, seed=1)), normal(8, seed=2)
    for strength in (-2.0, 0.0, 1.0):
        ws = placed(inputs, direction, strength, centre)
        again = inputs.replace(ws=ws)
        assert coordinate(again, direction, centre).item() == pytest.approx(strength, abs=1e-5)
        back = direction.edit(again, (coordinate(inputs, direction, centre) - strength).item())
        torch.testing.assert_close(back.ws, inputs.ws, rtol=1e-4, atol=1e-5)


def test_the_coordinate_counts_strengths_from_the_centre():
    direction = Direction("yaw", "w", 2 * torch.eye(8)[0], "f")
    ws = torch.zeros(1, 4, 8)
    ws[..., 0], ws[..., 5] = 7.0, 100.0
    assert coordinate(GeneratorInputs(ws), direction, torch.ones(8)).item() == pytest.approx(3)


# ---- partners


@pytest.mark.parametrize(("n", "count", "given"), [(5, 2, 2), (3, 9, 2), (2, 1, 1)])
def test_partners_are_others_and_every_image_is_as_often_one(n, count, given):
    found = [others(n, i, count, seed=1) for i in range(n)]
    assert all(i not in partners and len(set(partners)) == given for i, partners in enumerate(found))
    assert sorted(i for partners in found for i in partners) == sorted(list(range(n)) * given)


# ---- path length


def squared(a, b):
    return (a - b).square().flatten(1).sum(dim=1)


@pytest.mark.parametrize("sampling", ["end", "full"])
@pytest.mark.parametrize("each_layer", [False, True])
def test_path_length_of_a_linear_generator(linear, embedded, sampling, each_layer):
    """d is quadratic and the generator linear, so that every step is as long as the whole way: ||G(w') - G(w)||^2."""
    double = embedded[0].map(torch.Tensor.double)
    found = path_length.path_lengths(
        linear, double, squared, n=6, sampling=sampling, each_layer=each_layer, epsilon=1e-3, seed=2
    )
    z = normal(6 * linear.num_ws if each_layer else 6, 8, seed=2)
    ends = z.unflatten(0, (6, -1)) if each_layer else linear.broadcast(z)
    whole = squared(linear.synthesis(GeneratorInputs(ends.double())), linear.synthesis(double))
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-6)


def test_path_length_by_layer(linear, embedded):
    """Every row counts a quarter of the picture, hence a sixteenth of the squared distance."""
    double = embedded[0].map(torch.Tensor.double)
    by_layer = path_length.layer_path_lengths(linear, double, squared, epsilon=1e-3, seed=2)
    all_rows = path_length.path_lengths(linear, double, squared, n=1, epsilon=1e-3, seed=2)
    torch.testing.assert_close(by_layer, all_rows.expand(4) / 16, rtol=1e-3, atol=1e-6)


def test_full_and_end_differ_where_the_generator_bends(linear, embedded):
    """A distance of squares of pictures: at t = 0 of w = 0 nothing moves."""
    zero = GeneratorInputs(torch.zeros(1, 4, 8, dtype=torch.float64))

    def bent(a, b):
        return squared(a * a, b * b)

    end, full = (
        path_length.path_lengths(linear, zero, bent, n=20, sampling=s, epsilon=1e-4).mean().item()
        for s in ("end", "full")
    )
    assert end < 1e-6 < full


def test_the_generator_s_path_length_is_torchmetrics(tiny_generator):
    """Towards samples in W, from t = 0, on the same codes."""
    distance = PerceptualDistance(tiny_generator, "bundled")
    ours = path_length.generator_path_lengths(tiny_generator, distance, n=8, space="w", sampling="end", epsilon=1e-2)
    z = normal(16, 16)
    waiting = list(tiny_generator.mapping(z).chunk(2))

    class Wrapped(torch.nn.Module):
        def sample(self, num_samples):
            return waiting.pop(0)

        def forward(self, w):
            return 255 * (tiny_generator.synthesis(GeneratorInputs(tiny_generator.broadcast(w))) + 1) / 2

    class Net(torch.nn.Module):
        def forward(self, a, b):
            return distance(a, b)

    options = {"epsilon": 1e-2, "resize": None, "lower_discard": None, "upper_discard": None, "sim_net": Net()}
    mean, _, all_of_them = perceptual_path_length(Wrapped(), num_samples=8, **options)
    torch.testing.assert_close(ours.float(), all_of_them, rtol=1e-3, atol=1e-4)
    assert ours.mean().item() == pytest.approx(mean.item(), rel=1e-3)


def test_path_length_hardly_depends_on_epsilon(tiny_generator):
    distance = PerceptualDistance(tiny_generator, "bundled")
    inputs = GeneratorInputs(tiny_generator.broadcast(tiny_generator.mapping(normal(1, 16, seed=3))))
    small, usual, large = (
        path_length.path_lengths(tiny_generator, inputs, distance, n=4, epsilon=e) for e in (3e-5, 1e-4, 1e-3)
    )
    torch.testing.assert_close(small, usual, rtol=0.1, atol=0)
    torch.testing.assert_close(large, usual, rtol=0.1, atol=0)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_turns_evenly_on_the_sphere(t):
    a, b = 3 * normal(5, 8), 0.2 * normal(5, 8, seed=1)
    found = path_length.slerp(a, b, torch.full((5, 1), t))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))

    def angle(x, y):
        return torch.nn.functional.cosine_similarity(x, y, dim=1).clamp(-1, 1).acos()

    torch.testing.assert_close(angle(found, a), t * angle(a, b), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(angle(found, b), (1 - t) * angle(a, b), rtol=1e-3, atol=1e-3)


def test_path_lengths_in_z_are_those_of_the_sphere(linear):
    """Linear generator, quadratic distance: the squared speed of the arc, its angle times the generator's stretch."""
    linear.matrix = torch.linalg.qr(normal(48, 8)).Q
    found = path_length.generator_path_lengths(linear, squared, n=5, space="z", epsilon=1e-2, seed=3)
    a, b = normal(10, 8, seed=3).chunk(2)
    angle = torch.nn.functional.cosine_similarity(a, b, dim=1).acos()
    torch.testing.assert_close(found.float(), (0.1 * angle) ** 2, rtol=1e-2, atol=1e-4)


def test_trimmed_mean_is_stylegan_s():
    values = normal(7, 60).double().exp()
    low = np.percentile(values, 1, method="lower")
    high = np.percentile(values, 99, method="higher")
    kept = values[(values >= low) & (values <= high)]
    assert path_length.trimmed_mean(values).item() == pytest.approx(kept.mean().item())
    assert len(kept) < values.numel()
