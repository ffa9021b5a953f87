"""Recording an ONNX graph: nodes, inputs, and weights that are read from the checkpoint only when the file is written."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from converter.candidate import PlanCodes
from converter.source.checkpoint import Checkpoint

CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators


class Recorder:
    """Every call appends nodes; weights become initializers that are read only when the file is written.

    dtype: what the graph computes in, float32 or float16; its outputs are float32 either way. blocked: attend block by block.
    codes: of the modules that are stored as integers.
    done: called as each weight of the checkpoint is written. by_block: inputs of packed products are rounded to 8 bits.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        codes: PlanCodes,
        dtype: type,
        blocked: bool,
        done: Callable[[], None],
        by_block: bool = False,
    ):
        self.checkpoint, self.codes, self.by_block = checkpoint, codes, by_block
        self.dtype, self.blocked, self.done = dtype, blocked, done
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.inputs: dict[str, ir.Value] = {}
        self.made: dict[object, ir.Value] = {}  # what every layer shares
        self.wide: set[str] = set()  # values that are float32 in a float16 graph
        self.sums: dict[str, tuple[ir.Value, ir.Value]] = {}  # of a product with its bias, the two
        self.residuals: dict[str, tuple[ir.Value, ir.Value]] = {}  # of a product added to something, the two
        self.sizes: dict[str, tuple[int, ...]] = {}  # (width,) of what `linear` gave, (heads, d) once it is split
        self.count = 0
        self.max_tokens = 0  # of a text: so many have a position
        self.prefixed = False  # whether what all rows begin with can be given as keys and values instead, see `optional`
        self.optional: dict[str, ir.Value] = {}
        self.present: list[ir.Value] = []  # of each layer, in turn, the first row's keys and values

    def node(self, kind: str, *inputs: ir.Value | None, domain: str = "", name: str = "", **attributes: object) -> ir.Value:
        """Append a node with one output and return that."""
        return self._append(kind, inputs, attributes, 1, domain, name)[0]

    def _append(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, object],
        outputs: int,
        domain: str = "",
        name: str = "",
    ) -> list[ir.Value]:
        name = name or f"{kind}_{self.count}"
        node = ir.node(kind, inputs, attributes or None, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_output{index or ''}"
        self.nodes.append(node)
        self.count += 1
        return list(node.outputs)

    def body(self, record: Callable[[], ir.Value | Sequence[ir.Value]], inputs: Sequence[ir.Value] = ()) -> ir.Graph:
        """The body of an If or a Loop: the nodes that `record` appends, and its results. What is made in it stays in it."""
        outer, self.nodes = self.nodes, []
        found = record()
        outputs = [found] if isinstance(found, ir.Value) else list(found)
        graph = ir.Graph(inputs=inputs, outputs=outputs, nodes=self.nodes, name=f"body_{self.count}")
        self.nodes = outer
        return graph

    def input(self, name: str) -> ir.Value:
        """A graph input, (batch, sequence) int64. Only those that are used become inputs: other loaders must feed them all."""
        if name not in self.inputs:
            shape = ir.Shape(["batch_size", "sequence_length"])
            self.inputs[name] = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.INT64))
        return self.inputs[name]

    def option(self, name: str, default: np.ndarray) -> ir.Value:
        """A graph input that has a default: other loaders do not see it, as ONNX Runtime lists it among the initializers."""
        if name not in self.optional:
            tensor = ir.Tensor(default, name=name)
            kind, shape = ir.TensorType(tensor.dtype), ir.Shape(default.shape)
            self.optional[name] = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
        return self.optional[name]

    def weight(self, name: str, shape: tuple[int, ...], dtype: type, make: Callable[[], Iterable[np.ndarray]]) -> ir.Value:
        """An initializer whose values, in parts, `make` gives when they are written; the same name is the same initializer."""
        if name not in self.initializers:
            kind, dims = ir.DataType.from_numpy(np.dtype(dtype)), ir.Shape(shape)
            tensor = Streamed(make, kind, dims, name)
            self.initializers[name] = ir.Value(name=name, shape=dims, type=ir.TensorType(kind), const_value=tensor)
        return self.initializers[name]

    def constant(self, value: ArrayLike, dtype: type = np.int64) -> ir.Value:
        """A small constant, shared by all who use the same value."""
        array: np.ndarray = np.asarray(value, dtype)
        return self.weight(f"{array.dtype}_{array.tolist()}".replace(" ", ""), array.shape, dtype, lambda: [array])

    def tensor(self, name: str, transpose: bool = False, dtype: type | None = None, offset: float = 0.0) -> ir.Value:
        """A tensor of the checkpoint in `dtype`, else the graph's, transposed where a MatMul wants (in, out); plus `offset`."""
        shape, kind = self.checkpoint.tensors[name].shape, dtype or self.dtype

        def make() -> Iterator[np.ndarray]:
            if transpose:
                yield self.checkpoint.read(name, kind).T
            else:
                yield from (part + kind(offset) if offset else part for part in self.checkpoint.chunks(name, kind))
            self.done()

        return self.weight(name, shape[::-1] if transpose else shape, kind, make)

    def cast(self, x: ir.Value, dtype: type) -> ir.Value:
        return self.node("Cast", x, to=ir.DataType.from_numpy(np.dtype(dtype)))

    def slice(self, x: ir.Value, start: ir.Value | int, end: ir.Value | int, axis: int) -> ir.Value:
        """x[..., start:end, ...] on one axis; the ends are numbers or (1,) values."""
        ends = [self.constant([end]) if isinstance(end, int) else end for end in (start, end)]
        return self.node("Slice", x, *ends, self.constant([axis]))

    def length(self, x: ir.Value, axis: int) -> ir.Value:
        """The size of one axis of x, (1,)."""
        return self.node("Shape", x, start=axis, end=axis + 1)

    def prune(self, results: list[ir.Value]) -> None:
        """Drop the nodes and weights that no result needs: of a norm, say, whose every taker has one of its own."""
        needed, kept = {value.name for value in results}, []
        for node in reversed(self.nodes):
            if any(value.name in needed for value in node.outputs):
                kept.append(node)
                needed |= _taken(node)
        self.nodes = kept[::-1]
        self.initializers = {name: value for name, value in self.initializers.items() if name in needed}


def _taken(node: ir.Node) -> set[str | None]:
    """The names of all values that a node takes, or the nodes of its bodies."""
    bodies = [value.as_graph() for value in node.attributes.values() if value.type == ir.AttributeType.GRAPH]
    inner = (_taken(part) | {value.name for value in body.outputs} for body in bodies for part in body)
    return {value.name for value in node.inputs if value is not None}.union(*inner)


class Streamed(ir.LazyTensor):
    """A tensor that is made, in parts along its first axis, when it is written, and never kept."""

    def __init__(self, make: Callable[[], Iterable[np.ndarray]], dtype: ir.DataType, shape: ir.Shape, name: str):
        super().__init__(self._whole, dtype, shape, name=name)
        self.make = make

    def _whole(self) -> ir.Tensor:
        array = np.concatenate([np.atleast_1d(part) for part in self.make()])
        return ir.Tensor(np.ascontiguousarray(array.reshape(self.shape.numpy())), name=self.name)

    def tofile(self, file: BinaryIO) -> None:
        for part in self.make():
            file.write(np.ascontiguousarray(part).data)
