"""Every plug-in of ours by name, one table a kind."""

from __future__ import annotations

from latentopt.registry.registry import Registry

PARAMETERIZATIONS = Registry(
    "space",
    {
        "w": "latentopt.parameterizations.latent:W",
        "w+": "latentopt.parameterizations.latent:WPlus",
        "w++": "latentopt.parameterizations.styles:WPlusPlus",
        "w+coarse": "latentopt.parameterizations.coarse:Coarse",
        "s": "latentopt.parameterizations.styles:S",
        "f": "latentopt.parameterizations.features:F",
        "z": "latentopt.parameterizations.latent:Z",
        "z+": "latentopt.parameterizations.latent:ZPlus",
        "p-norm": "latentopt.parameterizations.pnorm:PNormSpace",
        "p-norm+": "latentopt.parameterizations.pnorm:PNormPlus",
        "noise": "latentopt.parameterizations.noise:NoiseMaps",
        "placement": "latentopt.parameterizations.placement:Placement",
        "weights": "latentopt.parameterizations.weights:Weights",
        "epsilon": "latentopt.parameterizations.epsilon:Epsilon",
        "lowrank": "latentopt.parameterizations.lowrank:LowRank",
    },
    {
        "wplus": "w+",
        "zplus": "z+",
        "stylespace": "s",
        "features": "f",
        "pnorm": "p-norm",
        "pnorm+": "p-norm+",
        "p-norm-plus": "p-norm+",
        "low-rank": "lowrank",
    },
)
TERMS = Registry(
    "term",
    {
        "l2": "latentopt.terms.pixel:L2",
        "l1": "latentopt.terms.pixel:L1",
        "saturated-l2": "latentopt.terms.pixel:SaturatedL2",
        "perceptual": "latentopt.terms.perceptual:Perceptual",
        "pyramid": "latentopt.terms.pyramid:Pyramid",
        "p-norm": "latentopt.terms.priors:PNormPenalty",
        "w-prior": "latentopt.terms.priors:WPrior",
        "rows-cosine": "latentopt.terms.priors:RowsCosine",
        "rows-spread": "latentopt.terms.priors:RowsSpread",
        "noise": "latentopt.terms.priors:NoiseAutocorrelation",
        "locality": "latentopt.terms.locality:Locality",
        "inside": "latentopt.terms.domain:Inside",
        "outside": "latentopt.terms.domain:Outside",
        "drag": "latentopt.terms.drag:Drag",
        "stays": "latentopt.terms.drag:Stays",
    },
    {"mse": "l2", "lpips": "perceptual", "pnorm": "p-norm"},
)
INITIALIZERS = Registry(
    "initialiser",
    {
        "mean": "latentopt.initializers.simple:Mean",
        "p-mean": "latentopt.initializers.simple:PMean",
        "sample": "latentopt.initializers.simple:Sample",
        "best-of": "latentopt.initializers.simple:BestOf",
        "lmmse": "latentopt.initializers.lmmse:LMMSE",
        "file": "latentopt.initializers.simple:File",
        "linear": "latentopt.initializers.linear:Linear",
        "placement": "latentopt.initializers.placement:PlacementStart",
        "at-hand": "latentopt.initializers.at_hand:AtHand",
        "encoder": "latentopt.initializers.encoder:EncoderStart",
        "psp": "latentopt.initializers.encoder:PSP",
        "e4e": "latentopt.initializers.encoder:E4E",
        "restyle-psp": "latentopt.initializers.encoder:RestylePSP",
        "restyle-e4e": "latentopt.initializers.encoder:RestyleE4E",
    },
    {"pmean": "p-mean", "w_avg": "mean"},
)
OPERATORS = Registry(
    "operator",
    {
        "identity": "latentopt.operators.identity:Identity",
        "mask": "latentopt.operators.mask:Mask",
        "down": "latentopt.operators.down:Down",
        "blur": "latentopt.operators.blur:Blur",
        "gray": "latentopt.operators.gray:Gray",
        "jpeg": "latentopt.operators.jpeg:Jpeg",
        "noise": "latentopt.operators.noise:Noise",
        "crop": "latentopt.operators.crop:Crop",
        "rows": "latentopt.operators.fourier:Rows",
        "columns": "latentopt.operators.fourier:Columns",
        "call": "latentopt.operators.call:Call",
    },
    {"function": "call"},
)
OPTIMIZERS = Registry(
    "optimizer",
    {
        "adam": "latentopt.loop.optimizers:adam",
        "adamw": "latentopt.loop.optimizers:adamw",
        "nadam": "latentopt.loop.optimizers:nadam",
        "radam": "latentopt.loop.optimizers:radam",
        "sgd": "latentopt.loop.optimizers:sgd",
        "momentum": "latentopt.loop.optimizers:Momentum",
        "ngd": "latentopt.loop.optimizers:NormalizedGradient",
        "lbfgs": "latentopt.loop.lbfgs:LBFGS",
    },
)
SCHEDULES = Registry(
    "schedule",
    {
        "constant": "latentopt.loop.schedules:Constant",
        "karras": "latentopt.loop.schedules:Karras",
        "cosine": "latentopt.loop.schedules:Cosine",
    },
)
REFINERS = Registry(
    "refiner",
    {
        "styleres": "latentopt.refiners.refiner:StyleRes",
        "warpres": "latentopt.refiners.refiner:WarpRes",
        "file": "latentopt.refiners.refiner:FromFile",
    },
)
FLOWS = Registry(  # what finds the flow between two pictures
    "flow",
    {
        "warps": "latentopt.refiners.teachers:Warps",
        "raft": "latentopt.refiners.teachers:Raft",
    },
)
DETECTORS = Registry(  # what finds faces in photographs
    "detector",
    {
        "blazeface": "latentopt.faces.blazeface:BlazeFace",
    },
)
FILES = Registry(  # what a plug-in may read: finders (generator, named, part) -> list of paths
    "kind of file",
    {
        "file": "latentopt.statistics.at_hand:named_file",
        "inputs": "latentopt.statistics.at_hand:saved_inputs",
        "p-norm": "latentopt.statistics.pnorm:PNORM",
        "sigma": "latentopt.statistics.sigma:SIGMA",
        "metric": "latentopt.statistics.metric_files:METRIC",
        "linear prior": "latentopt.statistics.linear_prior:PRIOR",
        "encoder": "latentopt.encoders.files:encoder_file",
        "bootstrap encoder": "latentopt.encoders.files:bootstrap_file",
        "generator": "latentopt.encoders.files:generator_file",
        "start at hand": "latentopt.initializers.at_hand:start_at_hand",
        "refiner": "latentopt.refiners.files:refiner_file",
        "flow network": "latentopt.refiners.teachers:flow_file",
    },
)
COORDINATES = Registry(  # in which directions are found, and straight
    "coordinates",
    {
        "w": "latentopt.editing.coordinates:W",
        "w+": "latentopt.editing.coordinates:WPlus",
        "p-norm": "latentopt.editing.coordinates:PNormAxes",
    },
)
FORMATS = Registry(  # what `latentopt info` tells of our files: functions (checkpoint, name) -> facts
    "file format",
    {
        "latentopt-generator-1": "latentopt.checkpoints.describe:describe_generator",
        "latentopt-discriminator-1": "latentopt.checkpoints.describe:describe_discriminator",
        "latentopt-encoder-1": "latentopt.encoders.files:describe_encoder",
        "latentopt-pnorm-1": "latentopt.statistics.pnorm_files:describe_statistics",
        "latentopt-delta-1": "latentopt.checkpoints.delta_files:describe_delta",
        "latentopt-sigma-1": "latentopt.statistics.sigma:describe_sigma",
        "latentopt-metric-1": "latentopt.statistics.metric:describe_metric",
        "latentopt-directions-1": "latentopt.editing.files:describe_directions",
        "latentopt-refiner-1": "latentopt.refiners.files:describe_refiner",
        "latentopt-flow-1": "latentopt.refiners.teachers:describe_flow",
    },
)
