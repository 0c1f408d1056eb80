"""Every kind of file that is read back or brought from elsewhere: a good one of each, and what reads it for use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from conftest import make_encoder, make_tiny_generator, photo
from pickle_writer import dumps, network
from PIL import Image

from latentopt.checkpoints.delta import Delta
from latentopt.checkpoints.describe import describe
from latentopt.checkpoints.model_files import read_checkpoint
from latentopt.checkpoints.networks import (
    load_discriminator,
    load_generator,
    save_discriminator,
    save_generator,
    save_rosinality,
)
from latentopt.checkpoints.persistence import module_state
from latentopt.data.folders import folder_images
from latentopt.editing.direction import Direction
from latentopt.editing.files import load_directions, save_directions
from latentopt.editing.latents import find_sources, read_latent
from latentopt.encoders.files import load_encoder, save_encoder
from latentopt.errors import LatentoptError
from latentopt.evaluation.evaluation_files import load_evaluation, save_evaluation
from latentopt.evaluation.framework import Evaluation
from latentopt.evaluation.measure import Measure
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.inverting.events import Failed, Finished
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import tensor_items
from latentopt.inverting.resuming import RESUME_FOLDER, resume_path
from latentopt.inverting.saved_run import checksum
from latentopt.inverting.tuning import common_recipe, tuning_items, tuning_recipe
from latentopt.judge.network import Judge, JudgeConfig, load_judge, save_judge
from latentopt.perceptual.network import PerceptualNet, PerceptualNetConfig, load_perceptual_net, save_perceptual_net
from latentopt.pictures.images import read_image
from latentopt.preflight.preflight import Preflight, Scale
from latentopt.preflight.warm_start import NearestSample
from latentopt.recipe.recipe import Recipe
from latentopt.report.figures import latent_density
from latentopt.report.page import Method
from latentopt.results.earlier import find_results
from latentopt.results.inversion import Inversion
from latentopt.results.rows import row_of
from latentopt.statistics.linear_prior import LinearPrior
from latentopt.statistics.metric import Metric
from latentopt.statistics.metric_fit import Distance, MetricFit, merge_metric_shards
from latentopt.statistics.pnorm import PNorm
from latentopt.statistics.pnorm_fit import PNormFit, fit_pnorm, merge_shards
from latentopt.statistics.sigma import Sigma
from latentopt.training.attributes import BINARY, NAMES, AttributeTrainer, AttributeTraining
from latentopt.training.streams import ArrayStream
from latentopt.types import GeneratorInputs

STAGE = {"init": "mean", "steps": 3, "lr": 0.02, "optimize": ["w+", "noise"], "terms": ["l2"], "jitter": {"scale": 0.1}}
RECIPE = Recipe.from_table({"name": "few", "about": "three steps", "stages": [STAGE]})
TUNING = Recipe.from_table(
    {"name": "tune", "stages": [{"init": "mean", "steps": 1, "lr": 0.01, "optimize": ["weights"], "terms": ["l2"]}]}
)
KEYS = ("a", "b")


@dataclass(frozen=True)
class World:
    """A folder with a good file of each kind, and what they belong to."""

    folder: Path
    generator: StyleGAN2
    targets: torch.Tensor
    start: NearestSample


@dataclass(frozen=True)
class Kind:
    """A file by its path in the world, and what is done with it there. Where damage costs only what the file held,
    `forgiven` reads are not to raise anything.
    """

    path: str
    read: Callable[[World, Path], object]
    forgiven: bool = False


def make_world(folder: Path) -> World:
    """All the files, made by those who write them."""
    g = make_tiny_generator(channels=(4, 4), z_dim=4, w_dim=4, mapping_layers=2)
    save_generator(g, folder / "tiny.safetensors")
    g = load_generator(str(folder / "tiny.safetensors"))
    targets = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    world = World(folder, g, targets, NearestSample(g))
    items = tensor_items(targets, KEYS)
    list(Inverter(g, RECIPE, out=folder / "out").invert(items))
    earlier = find_results(folder / "out")
    tuned = Inverter(g, tuning_recipe(TUNING, common_recipe(earlier)), out=folder / "tuned")
    list(tuned.invert(tuning_items(earlier, g)))
    asked = iter([False, True])
    try:
        list(Inverter(g, RECIPE, out=folder / "half").invert(items, lambda: next(asked)))
    except KeyboardInterrupt:
        (state,) = (folder / "half" / ".resume").iterdir()
        shutil.copy(state, folder / "half" / "state.safetensors")
    _models(folder, g)
    _statistics(folder, g)
    _trainings(folder)
    _pictures(folder)
    save_evaluation(EVALUATION, folder / "evaluated")
    return world


EVALUATION = Evaluation(
    [{"name": "a", "psnr": 20.0}],
    {"psnr": Measure("psnr", 20.0, None, None, 1), "lec": Measure("lec", float("nan"), None, None, 0)},
    {
        "p-norm": {"edges": [-2.0, -1.0, 0.0, 1.0, 2.0]}
        | {
            kind: {part: [0.1, 0.2, 0.3, 0.1] for part in ("first", "last", "all")}
            for kind in ("embeddings", "samples")
        }
    },
    {"images": 1},
    ["a note"],
)


def _models(folder: Path, g: StyleGAN2) -> None:
    config = DiscriminatorConfig((4, 4), mbstd_group_size=1)
    save_discriminator(Discriminator(config), folder / "discriminator.safetensors")
    save_rosinality(g, folder / "rosinality.pt")
    (folder / "nvidia.pkl").write_bytes(dumps({"G_ema": network({"_parameters": {"w": torch.ones(2, 2)}})}))
    save_encoder(make_encoder(g, "e4e", image_size=(16, 16)), folder / "encoder.safetensors")
    save_judge(folder / "judge.safetensors", Judge(JudgeConfig(("yaw", "hat"), ("hat",), (8, 8), 4, 4, 8)), {})
    net = PerceptualNet(PerceptualNetConfig(("yaw",), (), (4, 4), 8))
    save_perceptual_net(folder / "perceptual.safetensors", net, {"seed": 1})
    Delta({"synthesis.b4.conv1.weight": torch.ones(4, 4, 3, 3)}, g.fingerprint, g.name).save(
        folder / "delta.safetensors"
    )


def _statistics(folder: Path, g: StyleGAN2) -> None:
    pnorm = fit_pnorm(g, 200, batch=100)
    pnorm.save(folder / "pnorm.safetensors")
    np.savez(folder / "pca.npz", X_mean=pnorm.mean, X_comp=pnorm.components, X_stdev=pnorm.std)
    list(PNormFit(g, 200, batch=100, partial=folder / "moments.safetensors").run())
    rng = torch.Generator().manual_seed(0)
    normal = {
        name: torch.randn(shape, generator=rng) for name, shape in {"reduce": (6, 2), "expand": (2, 4, 4)}.items()
    }
    centre = {"intercept": torch.zeros(4, 4), "feature_mean": torch.zeros(6), "feature_scale": torch.ones(6)}
    basis = {"mean": pnorm.mean, "components": pnorm.components, "std": pnorm.std, "r2": torch.zeros(4)}
    card = {"n": 9, "seed": 0, "ridge": 0.1, "share": 0.5}
    prior = LinearPrior(**normal, **centre, **basis, fingerprint=g.fingerprint, network="net", grids=(1, 1), card=card)
    prior.save(folder / "prior.safetensors")
    fit = _metric_fit(g, folder / "sums.safetensors")
    list(fit.run())
    fit.result().save(folder / "metric.safetensors")
    Sigma({"synthesis.b4.conv1.weight": torch.ones(4, 4, 3, 3)}, "estimated", g.fingerprint).save(
        folder / "sigma.safetensors"
    )
    Preflight(NearestSample(g), Scale(torch.rand(9)), None, g.fingerprint).save(folder / "preflight.safetensors")
    made_for = {"fingerprint": g.fingerprint, "generator": g.name}
    save_directions(
        folder / "directions.safetensors",
        [
            Direction("smile", "w", torch.ones(4), **made_for),
            Direction("yaw", "w+", torch.ones(4, 4), layers=(0, 2), **made_for),
        ],
    )
    np.save(folder / "boundary.npy", np.ones((1, 4), np.float32))
    np.savez(folder / "ganspace.npz", lat_comp=np.ones((3, 1, 4), np.float32))
    torch.save({"eigvec": torch.eye(4)}, folder / "sefa.pt")


def trainer() -> AttributeTrainer:
    torch.manual_seed(0)
    net = Judge(JudgeConfig(NAMES, BINARY, (8, 8), num_features=4, identity_dim=4, resolution=8))
    images = np.random.default_rng(0).integers(0, 255, (8, 3, 8, 8), dtype=np.uint8)
    stream = ArrayStream(images, torch.rand(8, len(NAMES)), torch.zeros(len(NAMES), dtype=torch.bool), 0)
    return AttributeTrainer(AttributeTraining(steps=3, batch=4, precision="float32"), net, stream)


def _trainings(folder: Path) -> None:
    begun = trainer()
    next(begun.train())
    begun.save(folder / "snapshot.pt")
    for i in range(2):
        photo(folder / "photos" / f"{i}.png", i)
    folder_images(folder / "photos", folder / "cache", 8)
    for path in (folder / "cache").iterdir():
        shutil.copy(path, folder / "cache" / f"kept{path.suffix}")


def _pictures(folder: Path) -> None:
    picture = Image.linear_gradient("L").resize((20, 16)).convert("RGB")
    for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp"):
        picture.save(folder / f"picture.{suffix}")


# How each is used


def _result(world: World, path: Path) -> None:
    folder = path.parent
    (result,) = find_results(folder)
    tuning_recipe(TUNING, common_recipe([result]))
    tuning_items([result], world.generator)[0].item()
    inversion = Inversion.load(folder)
    row_of(inversion.name, inversion.manifest)
    (source,) = find_sources(folder)
    world.generator.synthesis(read_latent(source, world.generator).inputs)


def _resumed(world: World, path: Path) -> None:
    out = world.folder / "half"
    inverter, items = Inverter(world.generator, RECIPE, out=out), tensor_items(world.targets, KEYS)
    shutil.rmtree(out / ".resume", ignore_errors=True)
    (out / ".resume").mkdir()
    state = resume_path(out / RESUME_FOLDER, items, inverter.keeping)
    shutil.copy(path, state)
    signed(state)
    for key in KEYS:
        shutil.rmtree(out / key, ignore_errors=True)
    found = list(inverter.invert(items))
    ended = [e.inversion.name if isinstance(e, Finished) else e.name for e in found if isinstance(e, Finished | Failed)]
    assert ended == list(KEYS)


def signed(path: Path) -> None:
    """Give a changed state the checksum of its contents, so that the checks behind it are tried too."""
    with suppress(LatentoptError, KeyError, ValueError):
        tensors, metadata = load_tensors(path)
        save_tensors(path, tensors, metadata | {"checksum": checksum(tensors, metadata["meta"])})


def _drawn(world: World, path: Path) -> None:
    describe(str(path))
    g = load_generator(str(path))
    g.synthesis(GeneratorInputs(g.broadcast(g.mapping(torch.zeros(1, g.z_dim)))))


def _encoded(world: World, path: Path) -> None:
    describe(str(path))
    load_encoder(str(path), world.generator).encode(world.generator, world.targets)


def _evaluated(world: World, path: Path) -> None:
    evaluation = load_evaluation(path)
    evaluation.to_dict()
    latent_density([Method("one", "", "", evaluation.measures, evaluation.curves, evaluation.notes)])


def _edited(world: World, path: Path) -> None:
    inputs = GeneratorInputs(world.generator.broadcast(world.generator.w_avg[None]))
    for direction in load_directions(path, world.generator, force=path.suffix != ".safetensors").values():
        direction.edit(inputs, 1.0)


def _trained(world: World, path: Path) -> None:
    resumed = trainer()
    resumed.load(path)
    list(resumed.train())


def _cached(world: World, path: Path) -> None:
    """The array or its list in place of the one that belongs to the photos."""
    original = next(p for p in path.parent.glob("folder-*") if p.suffix == path.suffix)
    kept = original.read_bytes()
    try:
        shutil.copy(path, original)
        array, _ = folder_images(world.folder / "photos", path.parent, 8)
        array.sum()
    finally:
        original.write_bytes(kept)


def _fitted(world: World, path: Path) -> None:
    list(PNormFit(world.generator, 200, batch=100, partial=path).run())


def _delta(world: World, path: Path) -> None:
    describe(str(path))
    Delta.load(path, world.generator).bake(world.generator)


def _pnorm(world: World, path: Path) -> None:
    if path.suffix == ".safetensors":
        describe(str(path))
    pnorm = PNorm.load(path, world.generator)
    pnorm.unwhiten(pnorm.whiten(world.generator.w_avg))


def _metric(world: World, path: Path) -> None:
    describe(str(path))
    metric = Metric.load(path, world.generator)
    metric.roots("ws", 0.1)
    metric.weight_roots("synthesis.b4.conv1.weight", (4, 4, 3, 3), 0.1)


def _metric_fit(generator: StyleGAN2, path: Path) -> MetricFit:
    return MetricFit(generator, Distance.of(generator, "none", None, None), 4, batch=2, partial=path)


def _metric_fitted(world: World, path: Path) -> None:
    fit = _metric_fit(world.generator, path)
    list(fit.run())
    fit.result()


def _preflight(world: World, path: Path) -> None:
    Preflight.load(path, world.start, world.generator).check(world.targets)


RESULT_NAMES = ("run.json", "history.jsonl", "recipe.toml", "target.png", "proj.png", "inputs.safetensors")

KINDS = {
    **{f"result {name}": Kind(f"out/a/{name}", _result) for name in RESULT_NAMES},
    "tuned run.json": Kind("tuned/a/run.json", _result),
    "tuned delta": Kind("tuned/a/delta.safetensors", _result),
    "projected w": Kind("out/a/projected_w.npz", lambda w, p: read_latent(find_sources(p)[0], w.generator)),
    "saved batch": Kind("half/state.safetensors", _resumed, forgiven=True),
    "recipe": Kind("out/b/recipe.toml", lambda w, p: Recipe.load(str(p)).dump()),
    "generator": Kind("tiny.safetensors", _drawn),
    "rosinality": Kind("rosinality.pt", _drawn),
    "pickle": Kind("nvidia.pkl", lambda w, p: module_state(read_checkpoint(p).contents["G_ema"])),
    "discriminator": Kind("discriminator.safetensors", lambda w, p: load_discriminator(str(p))(w.targets)),
    "encoder": Kind("encoder.safetensors", _encoded),
    "judge": Kind("judge.safetensors", lambda w, p: load_judge(str(p)).read(w.targets)),
    "perceptual": Kind("perceptual.safetensors", lambda w, p: load_perceptual_net(str(p))(w.targets)),
    "delta": Kind("delta.safetensors", _delta),
    "p-norm": Kind("pnorm.safetensors", _pnorm),
    "pca": Kind("pca.npz", _pnorm),
    "moments": Kind("moments.safetensors", _fitted, forgiven=True),
    "merged moments": Kind("moments.safetensors", lambda w, p: merge_shards(w.generator, [p])),
    "prior": Kind("prior.safetensors", lambda w, p: LinearPrior.load(p, w.generator).predict(torch.ones(1, 6))),
    "metric": Kind("metric.safetensors", _metric),
    "metric sums": Kind("sums.safetensors", _metric_fitted, forgiven=True),
    "merged sums": Kind("sums.safetensors", lambda w, p: merge_metric_shards(w.generator, [p])),
    "sigma": Kind("sigma.safetensors", lambda w, p: (describe(str(p)), Sigma.load(p, w.generator))),
    "preflight": Kind("preflight.safetensors", _preflight),
    "directions": Kind("directions.safetensors", _edited),
    "boundary": Kind("boundary.npy", _edited),
    "ganspace": Kind("ganspace.npz", _edited),
    "sefa": Kind("sefa.pt", _edited),
    "evaluation": Kind("evaluated/evaluation.json", _evaluated),
    "snapshot": Kind("snapshot.pt", _trained),
    "cached array": Kind("cache/kept.npy", _cached),
    "cached list": Kind("cache/kept.json", _cached),
    **{
        f"picture {suffix}": Kind(f"picture.{suffix}", lambda w, p: read_image(p, (8, 8)))
        for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp")
    },
}


def outcome(world: World, kind: Kind, content: bytes) -> str:
    """What becomes of a file's reader when the file holds this: `read` or the kind of refusal. Any other exception
    passes through. The good file is put back.
    """
    path = world.folder / kind.path
    good = path.read_bytes()
    try:
        path.write_bytes(content)
        kind.read(world, path)
        return "read"
    except LatentoptError as error:
        if kind.forgiven:
            raise AssertionError(f"refused for good: {error}") from error
        return type(error).__name__
    finally:
        path.write_bytes(good)
