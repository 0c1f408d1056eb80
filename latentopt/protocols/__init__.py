"""Every interface of latentopt: import them from here. B images, L = num_ws, C = w_dim; images are [-1,1].

    Initializer       target            -> GeneratorInputs
    Parameterization  GeneratorInputs  <-> variables
    Generator         GeneratorInputs   -> image
    Operator          image             -> measurement
    Term              view              -> [B]
    Optimizer         variables, gradients, loss -> variables
    Refiner           target, GeneratorInputs, edited -> GeneratorInputs
    FlowTeacher       image, edited image -> flow
    FaceDetector      photograph -> faces

Plug-ins hold constants; what changes is in the loop's State. Their constructors take the generator (and the target
where they need it), then keyword-only options: those options are the keys of their table in a recipe.
"""

from __future__ import annotations

from latentopt.protocols.face_detector import FaceDetector as FaceDetector
from latentopt.protocols.generator import Generator as Generator
from latentopt.protocols.plugin import Plugin as Plugin
from latentopt.protocols.refiner import FlowTeacher as FlowTeacher
from latentopt.protocols.refiner import Refiner as Refiner
from latentopt.protocols.stage_parts import IMAGES as IMAGES
from latentopt.protocols.stage_parts import Initializer as Initializer
from latentopt.protocols.stage_parts import Memory as Memory
from latentopt.protocols.stage_parts import Operator as Operator
from latentopt.protocols.stage_parts import Optimizer as Optimizer
from latentopt.protocols.stage_parts import Parameterization as Parameterization
from latentopt.protocols.stage_parts import Source as Source
from latentopt.protocols.stage_parts import Term as Term
