"""How updates are computed: the eager definition, or the same code on stacked kernels and flat parameters.

An update is written once, with autograd. Under an engine other than `eager` each stacked network in it is a single node
of the graph, whose forward and backward are kernels, and an optimiser's parameters, gradients and moments are one flat
tensor each, of which the modules hold views. Only what lies between the networks, the losses, is left to autograd.
"""

from surefoot.agents.parts.engine.adam import FlatAdam
from surefoot.agents.parts.engine.choice import (
    ENGINES,
    Engine,
    attach,
    choose,
    compute_by,
    coverage,
    engine_of,
    option_of,
)

__all__ = ["ENGINES", "Engine", "FlatAdam", "attach", "choose", "compute_by", "coverage", "engine_of", "option_of"]
