"""Decoders, one file per family: from the raw outputs of the cores to detections.

A decoder is made from the settings of a file. It is called with the outputs of the core of the
image, the prepared images, the inputs, and what runs a core of regions. It gives what the model's
class gives in inference.
"""

from collections.abc import Callable
from typing import Any

from .blendmask import BlendMaskDecoder
from .condinst import CondInstDecoder
from .dense import DenseFCOSDecoder, RetinaNetDecoder
from .fcos import FCOSDecoder
from .proposals import ProposalNetworkDecoder
from .rcnn import PanopticFPNDecoder, RCNNDecoder
from .semantic import SemanticSegmentorDecoder
from .solov2 import SOLOv2Decoder

DECODERS: dict[str, Callable[..., Any]] = {
    "BlendMask": BlendMaskDecoder,
    "CondInst": CondInstDecoder,
    "DenseFCOS": DenseFCOSDecoder,
    "FCOS": FCOSDecoder,
    "PanopticFPN": PanopticFPNDecoder,
    "ProposalNetwork": ProposalNetworkDecoder,
    "RCNN": RCNNDecoder,
    "RetinaNet": RetinaNetDecoder,
    "SOLOv2": SOLOv2Decoder,
    "SemanticSegmentor": SemanticSegmentorDecoder,
}
