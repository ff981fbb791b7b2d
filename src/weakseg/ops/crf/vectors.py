"""Vectors for compiled loops: several labels of a row of a table, handled by one instruction.

Numba finds such instructions by itself only where it can prove that arrays do not overlap; on rows of a table, which it
cannot, it takes two to three times as long. The number of lanes of a vector is given by a tuple of that length: the
length is a part of the tuple's type, so a loop is compiled for each length that is used.

Numba keeps compiled loops until their own file changes; after a change here, touch the files that use it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.datamodel.manager import DataModelManager
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array

Lanes = tuple[int, ...]
Values = Sequence[ir.Value]
Writer = Callable[[BaseContext, ir.IRBuilder, Signature, Values], ir.Value]


def instruction(function: Callable[..., tuple[Signature, Writer]]) -> Callable[..., Any]:
    """A function of types that says what its result is, and what writes the instructions for it."""
    written: Callable[..., Any] = intrinsic(function)
    return written


class Vector(types.Type):
    """Float32 values that are handled by one instruction."""

    def __init__(self, lanes: int) -> None:
        self.llvm = ir.VectorType(ir.FloatType(), lanes)
        super().__init__(name=f"Vector({lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """Vectors as LLVM has them."""

    def __init__(self, manager: DataModelManager, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)  # type: ignore[no-untyped-call]


def _pointer(
    context: BaseContext, builder: ir.IRBuilder, kind: types.Array, place: Values, vector: ir.VectorType
) -> ir.Value:
    """To the vector at a place: an array and an index."""
    data = make_array(kind)(context, builder, place[0]).data  # type: ignore[no-untyped-call]
    return builder.bitcast(builder.gep(data, [place[1]]), vector.as_pointer())


def _indices(places: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))


@instruction
def load(_: BaseContext, array: types.Array, start: types.Type, lanes: types.UniTuple) -> tuple[Signature, Writer]:
    """The vector that starts at an index of a flat array."""
    vector = Vector(lanes.count)

    def write(context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: Values) -> ir.Value:
        return builder.load(_pointer(context, builder, signature.args[0], values[:2], vector.llvm), align=4)

    return vector(array, types.intp, lanes), write


@instruction
def store(_: BaseContext, vector: Vector, array: types.Array, start: types.Type) -> tuple[Signature, Writer]:
    """A vector to an index of a flat array."""

    def write(context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: Values) -> ir.Value:
        builder.store(values[0], _pointer(context, builder, signature.args[1], values[1:], vector.llvm), align=4)
        return context.get_dummy_value()  # type: ignore[no-untyped-call]

    return types.void(vector, array, types.intp), write


@instruction
def zeros(_: BaseContext, lanes: types.UniTuple) -> tuple[Signature, Writer]:
    """A vector of 0."""
    vector = Vector(lanes.count)

    def write(context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: Values) -> ir.Value:
        return ir.Constant(vector.llvm, [0.0] * lanes.count)

    return vector(lanes), write


@instruction
def add_weighted(_: BaseContext, x: Vector, weight: types.Type, y: Vector) -> tuple[Signature, Writer]:
    """The vector x + weight * y."""
    vector, lanes = x.llvm, x.llvm.count

    def write(context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: Values) -> ir.Value:
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), values[1], ir.IntType(32)(0))
        weights = builder.shuffle_vector(first, first, _indices([0] * lanes))
        kind, name = ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f32"
        fused = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        return builder.call(fused, [weights, values[2], values[0]])

    return x(x, types.float32, x), write


@instruction
def transpose(
    _: BaseContext,
    source: types.Array,
    start: types.Type,
    stride: types.Type,
    target: types.Array,
    begin: types.Type,
    pitch: types.Type,
    lanes: types.UniTuple,
) -> tuple[Signature, Writer]:
    """A square block, its rows a stride apart in the source, into columns of rows that are a pitch apart."""
    size, vector = lanes.count, Vector(lanes.count).llvm

    def write(context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: Values) -> ir.Value:
        def pointers(array: int) -> list[ir.Value]:
            base, first, step = values[array : array + 3]
            starts = [builder.add(first, builder.mul(step, step.type(i))) for i in range(size)]
            return [_pointer(context, builder, signature.args[array], (base, each), vector) for each in starts]

        rows = [builder.load(pointer, align=4) for pointer in pointers(0)]
        half = size // 2
        while half:  # swap the two quarters off the diagonal, then the same within each quarter
            above = _indices([i + size - half if i & half else i for i in range(size)])
            below = _indices([i + size if i & half else i + half for i in range(size)])
            for i in (i for i in range(size) if not i & half):
                pair = rows[i], rows[i + half]
                rows[i], rows[i + half] = (builder.shuffle_vector(*pair, mask) for mask in (above, below))
            half //= 2
        for row, pointer in zip(rows, pointers(3), strict=True):
            builder.store(row, pointer, align=4)
        return context.get_dummy_value()  # type: ignore[no-untyped-call]

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp, lanes), write
