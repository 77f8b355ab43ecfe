"""Becomes the installed torchvision, after declaring the operators that its compiled part would bring.

Its wheel is built for CUDA; beside a CPU build of torch that part cannot be loaded, and SGLang needs only the rest.
"""

import os
import sys

import torch

for _name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

_here = os.path.dirname(os.path.abspath(__file__))
_places = (os.path.join(os.path.abspath(path or "."), "torchvision") for path in sys.path)
_real = next((place for place in _places if place != _here and os.path.isfile(f"{place}/extension.py")), None)
if _real is None:
    raise ImportError("torchvision itself is not installed: bash scripts/setup.sh --engine sglang")
__path__ = [_real]
__file__ = os.path.join(_real, "__init__.py")
with open(__file__) as _source:
    exec(compile(_source.read(), __file__, "exec"))
