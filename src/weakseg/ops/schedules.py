"""Learning rates over the steps of a training."""

import math


def poly_lr(base: float, step: int, max_step: int, power: float = 0.9, step_size: int = 1) -> float:
    """Learning rate used by a step: base * (1 - step / max_step)^power.

    L.-C. Chen et al., "DeepLab", TPAMI 2018. The SEAM codebase passes one more than the number of steps as
    ``max_step``; deeplab-pytorch keeps the rate for ``step_size`` = 10 steps.

    Args:
        base: Rate of the first step.
        step: 0-based index of the step.
        max_step: From this step on the rate is 0; positive.
        power: Exponent.
        step_size: The rate changes only every so many steps.

    Returns:
        The rate, in [0, base].
    """
    held = step - step % step_size
    return base * math.pow(max(0.0, 1 - held / max_step), power)


def epochs_for_iterations(samples: int, batch_size: int, iterations: int) -> int:
    """Number of epochs that hold ``iterations`` steps, where the last incomplete batch of an epoch is dropped.

    Raises:
        ValueError: If there are fewer samples than one batch.
    """
    steps = samples // batch_size
    if steps == 0:
        raise ValueError(f"{samples} samples do not fill one batch of {batch_size}")
    return -(-iterations // steps)
