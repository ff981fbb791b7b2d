"""What timm's models understand by indices of stages, for models of our own."""

from collections.abc import Sequence


def taken_stages(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Stages by their non-negative numbers.

    Args:
        count: How many there are.
        indices: Which, negative ones from the end; or how many of the last; ``None`` for all.

    Raises:
        IndexError: If there is no such stage.
    """
    every = range(count)
    if indices is None or isinstance(indices, int):
        return list(every[-(indices or count) :])
    return [every[index] for index in indices]
