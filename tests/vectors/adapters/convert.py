"""From JSON values to tensors, and from one of several names of an input to its value."""

import torch


def first(values, *names):
    """The value of the first of these names that is there, with or without axes after an underscore.

    Sheets name axes in keys: ``x`` finds ``x_HW`` if nothing else starts with ``x_``.
    """
    for name in names:
        if name in values:
            return values[name]
    for name in names:
        alike = [key for key in values if key.startswith(f"{name}_")]
        if len(alike) == 1:
            return values[alike[0]]
    raise KeyError(f"none of {names} among {sorted(values)}")


def floats(value):
    """float64 tensor."""
    return torch.tensor(value, dtype=torch.float64)


def ints(value):
    """int64 tensor."""
    return torch.tensor(value, dtype=torch.int64)


def each(function, value):
    """``function`` of every item of a list, or of the value itself if it is none."""
    return [each(function, item) for item in value] if isinstance(value, list) else function(value)
