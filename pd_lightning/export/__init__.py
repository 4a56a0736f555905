"""A player as a file for other programs: `python -m pd_lightning.export PATH.ckpt --output student.onnx`.

The file takes `states` uint8 [B, 4, 84, 84] for any B, four grey frames, newest last, and gives what the player says of
each action, float32 [B, A]; the greedy action is the largest. The input statistics are in it, and so is what one must
know to play (`about`). A format is known by its suffix:

=========  ===================================================  ================================================
suffix     opened by                                            needs here
=========  ===================================================  ================================================
``.onnx``  ONNX Runtime, in a dozen languages; TensorRT, ...    `pip install -e '.[onnx]'`
``.pt2``   ``torch.export.load(path).module()``, AOTInductor    nothing more
=========  ===================================================  ================================================

The rooms: `plain` (the network in common layers) <- `formats` (files) <- `checking` (it plays the same).
"""

from pd_lightning.export.checking import export
from pd_lightning.export.formats import ExportError, open_exported

__all__ = ["ExportError", "export", "open_exported"]
