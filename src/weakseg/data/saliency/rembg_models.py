"""Saliency from the networks of rembg, such as U2-Net, for those who have it: the extra ``saliency``.

X. Qin, Z. Zhang, C. Huang, M. Dehghan, O. R. Zaiane, M. Jagersand, "U2-Net: Going Deeper with Nested U-Structure for
Salient Object Detection", Pattern Recognition 2020, and the other models that rembg offers.

These networks were trained on masks drawn by people: what they add is stronger than an unsupervised detector. rembg
downloads a model when it is first used and checks it by its checksum. Models that send images to a service are refused.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weakseg.data.saliency.provider import SaliencyProvider
from weakseg.errors import UserError
from weakseg.registry import near_matches

WHERE = "data.saliency"


class RembgSaliency(SaliencyProvider):
    """Saliency from a network of rembg (extra 'saliency'), trained on true masks of salient objects.

    Args:
        model: Its name, such as u2net, u2netp, silueta, isnet-general-use.

    Raises:
        UserError: If rembg is not installed, has no such model, or cannot get its weights.
    """

    def __init__(self, *, model: str = "u2net") -> None:
        self.session = _session(model)

    def __call__(self, image: Tensor) -> Tensor:
        """The model's mask; of several masks the highest value of each pixel."""
        masks = self.session.predict(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
        levels = np.stack([np.asarray(mask.convert("L")) for mask in masks]).max(0)
        return torch.from_numpy(levels.astype(np.float32) / np.float32(255))


def _session(model: str) -> Any:  # noqa: ANN401  (rembg has no types)
    try:
        import onnxruntime
        from rembg import new_session
        from rembg.sessions import sessions
    except (ImportError, SystemExit) as error:  # without a runtime, rembg ends the program
        remedy = "Install it: pip install 'weakseg[saliency]'; or use background-connectivity, which needs nothing"
        raise UserError("the provider 'rembg' needs the package rembg", where=WHERE, remedy=remedy) from error
    if model not in sessions:
        raise UserError(f"rembg has no model '{model}'", where=WHERE, remedy=near_matches(model, sessions))
    if not sessions[model].is_local():
        what = f"the rembg model '{model}' would send the images to a service"
        raise UserError(what, where=WHERE, remedy="Choose one that runs here, such as u2net")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one process a core does the rest
    try:
        return new_session(model, sess_opts=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever a download or a damaged file may raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "Connect to the network once, or put the model where rembg looks for it (~/.rembg or U2NET_HOME)"
        raise UserError(f"no weights for the rembg model '{model}' ({reason})", where=WHERE, remedy=remedy) from error
