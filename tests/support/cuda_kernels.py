"""What ONNX Runtime's CUDA provider computes, as far as our graphs go, and which of a graph's nodes it would not compute.

Source: docs/OperatorKernels.md of ONNX Runtime, section CUDAExecutionProvider, of March 2026. A kernel without a last version
takes a node only where the operator's own version in the graph's opset is that of the kernel: what the standard has changed
since falls back to the CPU until somebody registers it again. If, Loop and Identity are registered up to opset 23 since then
(pull request 27728); Attention takes groups of heads since then, too (27542). RotaryEmbedding is that of 25178.
"""

from collections.abc import Sequence

import onnx
from onnx import TensorProto

FLOATS = "float16 float double bfloat16"
NUMBERS = f"{FLOATS} int32 int64"
ANY = f"{NUMBERS} bool uint8 int8"
MICROSOFT = "com.microsoft."
# Operator -> first and last version (None: the first alone), which input the types are of, and the types.
KERNELS: dict[str, tuple[int, int | None, int, str]] = {
    "Add": (14, None, 0, NUMBERS),
    "And": (7, None, 0, "bool"),
    "ArgMax": (13, None, 0, "float16 float double"),
    "Attention": (23, None, 0, "float16 float bfloat16"),
    "Cast": (23, None, 0, ANY),
    "Concat": (13, None, 0, ANY),
    "Cos": (7, None, 0, "float16 float double"),
    "CumSum": (14, None, 0, "float16 float double int32 int64"),
    "Div": (14, None, 0, NUMBERS),
    "Expand": (13, None, 0, ANY),
    "Gather": (13, None, 0, ANY),
    "GatherND": (13, None, 0, f"{FLOATS} bool int64"),
    "Gelu": (20, None, 0, FLOATS),
    "Identity": (19, 23, 0, ANY),
    "If": (19, 23, 0, "bool"),
    "LayerNormalization": (17, None, 0, FLOATS),
    "LessOrEqual": (16, None, 0, "float16 float double int32 int64"),
    "Loop": (19, 23, 0, "int64"),
    "MatMul": (13, None, 0, FLOATS),
    "Max": (13, None, 0, NUMBERS),
    "Min": (13, None, 0, NUMBERS),
    "Mul": (14, None, 0, NUMBERS),
    "Not": (1, None, 0, "bool"),
    "QuantizeLinear": (21, None, 0, "float16 float"),
    "RMSNormalization": (23, None, 0, FLOATS),
    "Range": (11, None, 0, "float double int32 int64"),
    "ReduceL2": (18, None, 0, "float16 float double int32"),
    "ReduceMax": (18, None, 0, "float16 float double int32 int64"),
    "ReduceMin": (18, None, 0, "float16 float double int32 int64 int8 uint8"),
    "ReduceSum": (13, None, 0, NUMBERS),
    "Relu": (14, None, 0, FLOATS),
    "Reshape": (23, None, 0, ANY),
    "RotaryEmbedding": (23, None, 0, "float16 float bfloat16"),
    "Shape": (23, None, 0, ANY),
    "Sigmoid": (13, None, 0, FLOATS),
    "Sin": (7, None, 0, "float16 float double"),
    "Slice": (13, None, 0, ANY),
    "Split": (18, None, 0, ANY),
    "Sqrt": (13, None, 0, FLOATS),
    "Squeeze": (23, None, 0, ANY),
    "Sub": (14, None, 0, NUMBERS),
    "Sum": (13, None, 0, FLOATS),
    "Tanh": (13, None, 0, FLOATS),
    "Transpose": (23, None, 0, ANY),
    "Unsqueeze": (23, None, 0, ANY),
    "Where": (16, None, 1, f"{NUMBERS} uint8"),
    f"{MICROSOFT}BiasGelu": (1, None, 0, FLOATS),
    f"{MICROSOFT}GatherBlockQuantized": (1, None, 0, "uint8"),
    f"{MICROSOFT}MatMulNBits": (1, None, 0, "float16 float bfloat16"),
    f"{MICROSOFT}MultiHeadAttention": (1, None, 0, "float16 float bfloat16"),
}
TO_BOOL = ("And", "LessOrEqual", "Not")
TO_INT64 = ("ArgMax", "Shape")
LIKE = {"Where": 1, "GatherBlockQuantized": 2, "MatMulIntegerToFloat": 2, "QuantizeLinear": 2, "RMSNormalization": 1}


def without(model: onnx.ModelProto) -> set[str]:
    """Operators of nodes that CUDA has no kernel for. What is made of constants alone is computed once, when a graph loads."""
    opset = {entry.domain: entry.version for entry in model.opset_import}[""]
    nodes: list[tuple[str, list[str]]] = []
    _walk(model.graph, {}, set(), nodes)
    return {name for name, types in nodes if not _has(name, types, opset)}


def _has(name: str, given: Sequence[str], opset: int) -> bool:
    if name not in KERNELS:
        return False
    first, last, place, types = KERNELS[name]
    version = 1 if name.startswith(MICROSOFT) else onnx.defs.get_schema(name, opset).since_version
    return first <= version <= (last or first) and given[place] in types.split()


def _walk(graph: onnx.GraphProto, types: dict[str, str], constants: set[str], nodes: list[tuple[str, list[str]]]) -> str:
    """Add (operator, types of inputs) of nodes with an input that is no constant, in bodies, too; the last output's type.

    types, constants: of the values that the graph sees from outside.
    """
    inputs = {value.name: _of(value.type.tensor_type.elem_type) for value in graph.input}
    types = types | inputs | {tensor.name: _of(tensor.data_type) for tensor in graph.initializer}
    constants = constants | {tensor.name for tensor in graph.initializer} - inputs.keys()  # of an input it is the default
    for node in graph.node:
        bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
        given = [types.get(value, "") for value in node.input]
        if not bodies and constants.issuperset(filter(None, node.input)):
            constants |= set(node.output)
        else:
            nodes.append((f"{node.domain}.{node.op_type}" if node.domain else node.op_type, given))
        results = [_walk(body, types, constants, nodes) for body in bodies] or [_result(node, given)]
        types |= dict.fromkeys(node.output, results[0])
    return types[graph.output[-1].name]


def _result(node: onnx.NodeProto, given: Sequence[str]) -> str:
    if node.op_type == "Cast":
        return _of(next(attribute.i for attribute in node.attribute if attribute.name == "to"))
    if node.op_type in TO_BOOL:
        return "bool"
    return "int64" if node.op_type in TO_INT64 else given[LIKE.get(node.op_type, 0)]


def _of(number: int) -> str:
    return str(TensorProto.DataType.Name(number)).lower()
