"""The table from the functions of the vector files to ours: one module for each sheet.

An adapter takes a case's ``inputs`` and ``parameters`` (dictionaries of plain JSON values) and returns one value or a
dictionary of outputs, named as in ``expected``; more outputs than expected do no harm. It imports what it calls inside
itself, so that the table loads fast, and only translates: no mathematics of ours lives here. A key is a function's
name, or ``file-stem:function`` where one name means two things, and then the more specific one wins. To add a sheet,
write a module with a ``TABLE`` and name it in ``MODULES``.
"""

from tests.vectors.adapters import (
    affinitynet,
    bana,
    cam,
    crf,
    eps,
    irn,
    metrics,
    shared,
    single_stage,
    split_merge,
    training,
)

MODULES = (shared, affinitynet, bana, cam, crf, eps, irn, metrics, single_stage, split_merge, training)


def _merged(modules):
    table = {}
    for module in modules:
        repeated = sorted(table.keys() & module.TABLE.keys())
        if repeated:
            raise ValueError(f"two adapters for {repeated}, the second in {module.__name__}")
        table |= module.TABLE
    return table


ADAPTERS = _merged(MODULES)


def find_adapter(stem, function):
    """The adapter of a function in the file ``stem``.json, or ``None``."""
    return ADAPTERS.get(f"{stem}:{function}", ADAPTERS.get(function))
