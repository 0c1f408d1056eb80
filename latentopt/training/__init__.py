"""Training of generators, encoders and the networks of the portraits domain: one loop, a trainer for each."""

PRECISIONS = ("auto", "bfloat16", "float16", "float32")
LOSSES = ("logistic", "relativistic")  # of the discriminator of images
GENERATOR_FAMILIES = ("stylegan2", "stylegan3-t", "stylegan3-r")
FEATURES = ("none", "perceptual", "random", "both")  # what a second discriminator sees
DRAWN = 60_000  # portraits that are drawn and kept as training images, unless something else is said
ENCODER_KINDS = ("psp", "e4e", "restyle-psp", "restyle-e4e")
