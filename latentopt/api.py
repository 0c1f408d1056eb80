"""Everything that a command can do, as functions. A command parses its options, calls some of these, and prints.

Names are imported when they are first used, by the table; the imports are for type checkers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentopt.files.lazy import lazily

if TYPE_CHECKING:
    from latentopt.checkpoints.delta import Delta as Delta
    from latentopt.checkpoints.delta import load_deltas as load_deltas
    from latentopt.checkpoints.describe import describe as describe
    from latentopt.checkpoints.networks import load_discriminator as load_discriminator
    from latentopt.checkpoints.networks import load_generator as load_generator
    from latentopt.checkpoints.networks import save_discriminator as save_discriminator
    from latentopt.checkpoints.networks import save_generator as save_generator
    from latentopt.checkpoints.networks import save_rosinality as save_rosinality
    from latentopt.dragging.drag import DragStep as DragStep
    from latentopt.dragging.drag import drag as drag
    from latentopt.dragging.drag import read_mask as read_mask
    from latentopt.dragging.points import parse_point as parse_point
    from latentopt.dragging.work import Dragged as Dragged
    from latentopt.dragging.work import drag_latent as drag_latent
    from latentopt.editing.channels import find_channels as find_channels
    from latentopt.editing.channels import with_channels as with_channels
    from latentopt.editing.files import add_directions as add_directions
    from latentopt.editing.files import find_directions as find_directions
    from latentopt.editing.files import given_or_found_directions as given_or_found_directions
    from latentopt.editing.files import kept_directions as kept_directions
    from latentopt.editing.files import load_directions as load_directions
    from latentopt.editing.files import save_directions as save_directions
    from latentopt.editing.films import Film as Film
    from latentopt.editing.films import check_films as check_films
    from latentopt.editing.find import draw_sheet as draw_sheet
    from latentopt.editing.find import find_by as find_by
    from latentopt.editing.ganalyze import find_ganalyze as find_ganalyze
    from latentopt.editing.ganspace import find_ganspace as find_ganspace
    from latentopt.editing.interfacegan import find_interfacegan as find_interfacegan
    from latentopt.editing.latents import Latent as Latent
    from latentopt.editing.latents import distinct as distinct
    from latentopt.editing.latents import find_sources as find_sources
    from latentopt.editing.latents import open_sources as open_sources
    from latentopt.editing.latents import read_latent as read_latent
    from latentopt.editing.latents import result_sources as result_sources
    from latentopt.editing.latents import save_latent as save_latent
    from latentopt.editing.layers import parse_layers as parse_layers
    from latentopt.editing.mixing import interpolate as interpolate
    from latentopt.editing.mixing import mix as mix
    from latentopt.editing.mixing import split_row as split_row
    from latentopt.editing.pictures import draw as draw
    from latentopt.editing.pictures import save_pictures as save_pictures
    from latentopt.editing.pictures import save_samples as save_samples
    from latentopt.editing.sefa import find_sefa as find_sefa
    from latentopt.editing.sequence import apply_edits as apply_edits
    from latentopt.editing.sequence import choose as choose
    from latentopt.editing.sequence import parse_edit as parse_edit
    from latentopt.editing.sequence import parse_sweep as parse_sweep
    from latentopt.editing.sequences import Sequences as Sequences
    from latentopt.editing.spaces import EditingSpace as EditingSpace
    from latentopt.editing.work import edit_latents as edit_latents
    from latentopt.editing.work import interpolate_latents as interpolate_latents
    from latentopt.editing.work import mix_latents as mix_latents
    from latentopt.encoders.files import load_encoder as load_encoder
    from latentopt.evaluation.comparison import Callbacks as Callbacks
    from latentopt.evaluation.evaluation_files import load_evaluation as load_evaluation
    from latentopt.evaluation.evaluation_files import save_evaluation as save_evaluation
    from latentopt.evaluation.framework import evaluate as evaluate
    from latentopt.evaluation.methods import load_recipes as load_recipes
    from latentopt.evaluation.runs import load_run as load_run
    from latentopt.evaluation.subject import Amounts as Amounts
    from latentopt.evaluation.tuning import tune as tune
    from latentopt.faces.aligner import Aligner as Aligner
    from latentopt.faces.aligning import align as align
    from latentopt.faces.alignment import Alignment as Alignment
    from latentopt.faces.blending import Seam as Seam
    from latentopt.faces.blending import paste_face as paste_face
    from latentopt.faces.edited import named_alignment as named_alignment
    from latentopt.faces.given import given_points as given_points
    from latentopt.faces.pasting import paste as paste
    from latentopt.faces.quads import face_quad as face_quad
    from latentopt.geometry.moves import PictureMove as PictureMove
    from latentopt.geometry.moves import check_takes_transform as check_takes_transform
    from latentopt.inverting.encoding_recipe import encoding_recipe as encoding_recipe
    from latentopt.inverting.measured import ensure_metrics as ensure_metrics
    from latentopt.inverting.tuning import tuning_recipe as tuning_recipe
    from latentopt.inverting.work import encode as encode
    from latentopt.inverting.work import invert as invert
    from latentopt.judge.protocol import load_attribute_judge as load_attribute_judge
    from latentopt.pictures.finding import find_images as find_images
    from latentopt.pictures.images import read_image as read_image
    from latentopt.pictures.images import save_png as save_png
    from latentopt.preflight.picture_check import PictureCheck as PictureCheck
    from latentopt.preflight.preflight import Preflight as Preflight
    from latentopt.preflight.preflight import find_preflight as find_preflight
    from latentopt.recipe.named_recipes import recipe_names as recipe_names
    from latentopt.recipe.placement import with_placement as with_placement
    from latentopt.recipe.recipe import Recipe as Recipe
    from latentopt.recipe.spaces import space_recipe as space_recipe
    from latentopt.recipe.spaces import with_space as with_space
    from latentopt.refiners.files import load_refiner as load_refiner
    from latentopt.report.work import compare as compare
    from latentopt.restoring.restoration import Restoration as Restoration
    from latentopt.restoring.work import restore as restore
    from latentopt.results.earlier import find_results as find_results
    from latentopt.results.earlier import newest_run as newest_run
    from latentopt.results.inversion import Inversion as Inversion
    from latentopt.results.redrawing import redraw_of as redraw_of
    from latentopt.scale.merge import merge as merge
    from latentopt.scale.on_ray import OnRay as OnRay
    from latentopt.scale.workers import Workers as Workers
    from latentopt.sharing.push import check_token as check_token
    from latentopt.sharing.push import packaged as packaged
    from latentopt.sharing.push import push as push
    from latentopt.sharing.push import upload as upload
    from latentopt.statistics.linear_prior_fit import fit_prior as fit_prior
    from latentopt.statistics.linear_prior_measure import measure_prior as measure_prior
    from latentopt.statistics.metric import Metric as Metric
    from latentopt.statistics.metric_fit import fit_metric as fit_metric
    from latentopt.statistics.metric_measure import measure_metric as measure_metric
    from latentopt.statistics.metric_measure import merge_metric as merge_metric
    from latentopt.statistics.pnorm import PNorm as PNorm
    from latentopt.statistics.pnorm_fit import fit_pnorm as fit_pnorm
    from latentopt.statistics.pnorm_measure import kept_pnorm as kept_pnorm
    from latentopt.statistics.pnorm_measure import measure_pnorm as measure_pnorm
    from latentopt.statistics.pnorm_measure import merge_pnorm as merge_pnorm
    from latentopt.statistics.pnorm_measure import take_over_pnorm as take_over_pnorm
    from latentopt.statistics.sampling import sample_images as sample_images
    from latentopt.statistics.sampling import seeded_inputs as seeded_inputs
    from latentopt.statistics.sigma_fit import ensure_sigma as ensure_sigma
    from latentopt.statistics.sigma_fit import fit_sigma as fit_sigma
    from latentopt.statistics.sigma_measure import kept_sigma as kept_sigma
    from latentopt.statistics.sigma_measure import measure_sigma as measure_sigma
    from latentopt.training.encoder_settings import settings_for as settings_for
    from latentopt.training.flow import FlowTraining as FlowTraining
    from latentopt.training.generator_settings import GeneratorTraining as GeneratorTraining
    from latentopt.training.refiner_settings import RefinerTraining as RefinerTraining
    from latentopt.training.train_encoder import train_encoder as train_encoder
    from latentopt.training.train_flow import train_flow as train_flow
    from latentopt.training.train_generator import train_generator as train_generator
    from latentopt.training.train_generator import train_wrangan as train_wrangan
    from latentopt.training.train_networks import train_judge as train_judge
    from latentopt.training.train_networks import train_perceptual as train_perceptual
    from latentopt.training.train_refiner import train_refiner as train_refiner
    from latentopt.types import GeneratorInputs as GeneratorInputs

EXPORTS = {
    "Delta": "latentopt.checkpoints.delta",
    "load_deltas": "latentopt.checkpoints.delta",
    "describe": "latentopt.checkpoints.describe",
    "load_discriminator": "latentopt.checkpoints.networks",
    "load_generator": "latentopt.checkpoints.networks",
    "save_discriminator": "latentopt.checkpoints.networks",
    "save_generator": "latentopt.checkpoints.networks",
    "save_rosinality": "latentopt.checkpoints.networks",
    "DragStep": "latentopt.dragging.drag",
    "drag": "latentopt.dragging.drag",
    "read_mask": "latentopt.dragging.drag",
    "parse_point": "latentopt.dragging.points",
    "Dragged": "latentopt.dragging.work",
    "drag_latent": "latentopt.dragging.work",
    "find_channels": "latentopt.editing.channels",
    "with_channels": "latentopt.editing.channels",
    "Film": "latentopt.editing.films",
    "check_films": "latentopt.editing.films",
    "add_directions": "latentopt.editing.files",
    "find_directions": "latentopt.editing.files",
    "given_or_found_directions": "latentopt.editing.files",
    "kept_directions": "latentopt.editing.files",
    "load_directions": "latentopt.editing.files",
    "save_directions": "latentopt.editing.files",
    "draw_sheet": "latentopt.editing.find",
    "find_by": "latentopt.editing.find",
    "find_ganalyze": "latentopt.editing.ganalyze",
    "find_ganspace": "latentopt.editing.ganspace",
    "find_interfacegan": "latentopt.editing.interfacegan",
    "Latent": "latentopt.editing.latents",
    "distinct": "latentopt.editing.latents",
    "find_sources": "latentopt.editing.latents",
    "open_sources": "latentopt.editing.latents",
    "read_latent": "latentopt.editing.latents",
    "result_sources": "latentopt.editing.latents",
    "save_latent": "latentopt.editing.latents",
    "parse_layers": "latentopt.editing.layers",
    "interpolate": "latentopt.editing.mixing",
    "mix": "latentopt.editing.mixing",
    "split_row": "latentopt.editing.mixing",
    "draw": "latentopt.editing.pictures",
    "save_pictures": "latentopt.editing.pictures",
    "save_samples": "latentopt.editing.pictures",
    "find_sefa": "latentopt.editing.sefa",
    "apply_edits": "latentopt.editing.sequence",
    "choose": "latentopt.editing.sequence",
    "parse_edit": "latentopt.editing.sequence",
    "parse_sweep": "latentopt.editing.sequence",
    "Sequences": "latentopt.editing.sequences",
    "EditingSpace": "latentopt.editing.spaces",
    "edit_latents": "latentopt.editing.work",
    "interpolate_latents": "latentopt.editing.work",
    "mix_latents": "latentopt.editing.work",
    "load_encoder": "latentopt.encoders.files",
    "Callbacks": "latentopt.evaluation.comparison",
    "load_evaluation": "latentopt.evaluation.evaluation_files",
    "save_evaluation": "latentopt.evaluation.evaluation_files",
    "evaluate": "latentopt.evaluation.framework",
    "load_recipes": "latentopt.evaluation.methods",
    "load_run": "latentopt.evaluation.runs",
    "Amounts": "latentopt.evaluation.subject",
    "tune": "latentopt.evaluation.tuning",
    "Aligner": "latentopt.faces.aligner",
    "align": "latentopt.faces.aligning",
    "Alignment": "latentopt.faces.alignment",
    "Seam": "latentopt.faces.blending",
    "paste_face": "latentopt.faces.blending",
    "named_alignment": "latentopt.faces.edited",
    "given_points": "latentopt.faces.given",
    "paste": "latentopt.faces.pasting",
    "face_quad": "latentopt.faces.quads",
    "PictureMove": "latentopt.geometry.moves",
    "check_takes_transform": "latentopt.geometry.moves",
    "tuning_recipe": "latentopt.inverting.tuning",
    "ensure_metrics": "latentopt.inverting.measured",
    "encode": "latentopt.inverting.work",
    "encoding_recipe": "latentopt.inverting.encoding_recipe",
    "invert": "latentopt.inverting.work",
    "load_attribute_judge": "latentopt.judge.protocol",
    "find_images": "latentopt.pictures.finding",
    "read_image": "latentopt.pictures.images",
    "save_png": "latentopt.pictures.images",
    "PictureCheck": "latentopt.preflight.picture_check",
    "find_preflight": "latentopt.preflight.preflight",
    "Preflight": "latentopt.preflight.preflight",
    "Recipe": "latentopt.recipe.recipe",
    "with_placement": "latentopt.recipe.placement",
    "recipe_names": "latentopt.recipe.named_recipes",
    "space_recipe": "latentopt.recipe.spaces",
    "with_space": "latentopt.recipe.spaces",
    "load_refiner": "latentopt.refiners.files",
    "compare": "latentopt.report.work",
    "Restoration": "latentopt.restoring.restoration",
    "restore": "latentopt.restoring.work",
    "find_results": "latentopt.results.earlier",
    "newest_run": "latentopt.results.earlier",
    "Inversion": "latentopt.results.inversion",
    "redraw_of": "latentopt.results.redrawing",
    "merge": "latentopt.scale.merge",
    "OnRay": "latentopt.scale.on_ray",
    "Workers": "latentopt.scale.workers",
    "check_token": "latentopt.sharing.push",
    "packaged": "latentopt.sharing.push",
    "push": "latentopt.sharing.push",
    "upload": "latentopt.sharing.push",
    "fit_prior": "latentopt.statistics.linear_prior_fit",
    "measure_prior": "latentopt.statistics.linear_prior_measure",
    "Metric": "latentopt.statistics.metric",
    "fit_metric": "latentopt.statistics.metric_fit",
    "measure_metric": "latentopt.statistics.metric_measure",
    "merge_metric": "latentopt.statistics.metric_measure",
    "PNorm": "latentopt.statistics.pnorm",
    "fit_pnorm": "latentopt.statistics.pnorm_fit",
    "kept_pnorm": "latentopt.statistics.pnorm_measure",
    "measure_pnorm": "latentopt.statistics.pnorm_measure",
    "merge_pnorm": "latentopt.statistics.pnorm_measure",
    "take_over_pnorm": "latentopt.statistics.pnorm_measure",
    "sample_images": "latentopt.statistics.sampling",
    "seeded_inputs": "latentopt.statistics.sampling",
    "ensure_sigma": "latentopt.statistics.sigma_fit",
    "fit_sigma": "latentopt.statistics.sigma_fit",
    "kept_sigma": "latentopt.statistics.sigma_measure",
    "measure_sigma": "latentopt.statistics.sigma_measure",
    "settings_for": "latentopt.training.encoder_settings",
    "GeneratorTraining": "latentopt.training.generator_settings",
    "FlowTraining": "latentopt.training.flow",
    "RefinerTraining": "latentopt.training.refiner_settings",
    "train_encoder": "latentopt.training.train_encoder",
    "train_flow": "latentopt.training.train_flow",
    "train_refiner": "latentopt.training.train_refiner",
    "train_generator": "latentopt.training.train_generator",
    "train_wrangan": "latentopt.training.train_generator",
    "train_judge": "latentopt.training.train_networks",
    "train_perceptual": "latentopt.training.train_networks",
    "GeneratorInputs": "latentopt.types",
}
__all__ = list(EXPORTS)
__getattr__ = lazily(__name__, globals(), EXPORTS)
