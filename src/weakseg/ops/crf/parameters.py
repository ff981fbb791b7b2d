"""The settings of the dense CRF, and the sets the literature uses by name."""

from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral

NARROWEST = 0.1
"""Smallest kernel width: pixels one unit apart are ten standard deviations apart, and the kernel joins nothing."""


@dataclass(frozen=True)
class CRFParameters:
    """Two Gaussian kernels, their weights, and how often the mean field is updated.

    Attributes:
        iterations: Mean-field updates; 0 gives the softmax of the negative unary.
        gaussian_sxy: Width of the position kernel, in pixels.
        gaussian_compat: Its Potts weight; 0 leaves the kernel out.
        bilateral_sxy: Width in position of the position-and-colour kernel, in pixels.
        bilateral_srgb: Its width in colour, in grey levels of [0, 255].
        bilateral_compat: Its Potts weight; 0 leaves the kernel out.

    Raises:
        ValueError: If the number of iterations is not an integer or negative, a width below 0.1 or not finite, or a
            weight negative or not finite.
    """

    iterations: int
    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, Integral) or self.iterations < 0:
            raise ValueError(f"iterations must be an integer, 0 or more, not {self.iterations!r}")
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not NARROWEST <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least {NARROWEST}, not {getattr(self, name)}")
        for name in ("gaussian_compat", "bilateral_compat"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, not {getattr(self, name)}")


CRF_PARAMETERS: dict[str, CRFParameters] = {
    "A": CRFParameters(10, 3, 3, 80, 13, 10),  # AffinityNet (psa), SEAM, MCTformer, PMM: maps to pseudo-masks
    "A'": CRFParameters(10, 3, 10, 80, 13, 10),  # PMM's pretended under-fitting, two labels per class
    "B": CRFParameters(10, 3, 3, 50, 5, 10),  # IRN, SIPE: from labels, held true with probability 0.7
    "B'": CRFParameters(10, 3, 3, 40, 5, 10),  # Spatial-BCE: from labels
    "C": CRFParameters(1, 3, 3, 32, 13, 10),  # SEAM: the segmentation network's softmax
    "D": CRFParameters(10, 1, 3, 67, 3, 4),  # DeepLab-v2
    "E": CRFParameters(10, 4, 3, 83, 5, 3),  # MCTformer: the segmentation network's softmax
    "F": CRFParameters(10, 2, 3, 55, 3, 4),  # Bootstrapping: the segmentation network's softmax
    "G": CRFParameters(10, 3, 3, 55, 3, 4),  # BANA: background and maps within boxes to pseudo-masks
    "H": CRFParameters(10, 3, 3, 121, 5, 4),  # BANA: the softmax of DeepLab-V1 on VGG16
}


def parameters(name_or_object: str | CRFParameters) -> CRFParameters:
    """The parameter set of that name, or the given parameters themselves.

    Raises:
        ValueError: If there is no set of that name; lists the near matches.
    """
    if isinstance(name_or_object, CRFParameters):
        return name_or_object
    if name_or_object in CRF_PARAMETERS:
        return CRF_PARAMETERS[name_or_object]
    close = get_close_matches(str(name_or_object).upper(), CRF_PARAMETERS, n=2)
    hint = "did you mean " + " or ".join(close) + "?" if close else "known: " + ", ".join(CRF_PARAMETERS)
    raise ValueError(f"unknown CRF parameter set '{name_or_object}', {hint}")
