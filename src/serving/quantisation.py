"""Dynamic INT8 quantisation of exported graphs: weights per channel, activations by the largest number of a batch."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from src.core import storage
from src.core.errors import UserError
from src.serving.onnx_engine import WEIGHTS
from src.serving.packages import require_packages

QUANTISED = {"LSTM": "DynamicQuantizeLSTM", "MatMul": "MatMulInteger"}
"""Operators with weights, and what takes their place in INT8."""
FLOAT_ONLY = ("GRU", "RNN", "Conv")
"""Operators that onnxruntime quantises not at all, or to something slower."""


def quantise(graph: Path, to: Path) -> Counter[str]:
    """Writes a graph with INT8 weights; returns how many operators of each kind are in INT8 now.

    onnxruntime leaves an operator in float32 without a word where its weights are computed nodes. So all that have
    weights are counted before and after, and no LSTM may be left, wherever its weights come from. Raises UserError
    where one is still in float32, and for a graph of FLOAT_ONLY.
    """
    require_packages("compress", "onnx", "onnxruntime", "sympy")
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    wanted = weighted(graph)
    if kept := [kind for kind in FLOAT_ONLY if _operators(graph)[kind]]:
        raise UserError(f"{graph.name} computes with {' and '.join(kept)}, which onnxruntime has in float32 alone")
    with tempfile.TemporaryDirectory(prefix="quantise-") as folder, _quiet():
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(
            str(prepared),
            str(made),
            op_types_to_quantize=[*QUANTISED, "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        found = _operators(made)
        for kind, quantised in QUANTISED.items():
            if found[quantised] < wanted[kind] or (kind == "LSTM" and found[kind]):
                raise UserError(
                    f"{graph}: {found[quantised]} of {wanted[kind]} {kind} operators are in INT8 after quantisation; "
                    "their weights must be constants of the graph"
                )
        content = _marked(made)
    storage.write_atomic(to, lambda file: file.write(content))
    return Counter({kind: found[kind] for kind in QUANTISED.values() if found[kind]})


def _marked(graph: Path) -> bytes:
    """A graph's content with the note that its numbers depend on the batch."""
    import onnx

    model = onnx.load(str(graph))
    onnx.helper.set_model_props(model, {WEIGHTS: "int8"})
    return model.SerializeToString(deterministic=True)


def weighted(graph: Path) -> Counter[str]:
    """Counts the operators of QUANTISED that have weights: every LSTM, and each MatMul by a constant."""
    import onnx

    model = onnx.load(str(graph))
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return Counter(
        node.op_type
        for node in model.graph.node
        if node.op_type == "LSTM" or (node.op_type in QUANTISED and constants & set(node.input[1:]))
    )


def _operators(graph: Path) -> Counter[str]:
    import onnx

    return Counter(node.op_type for node in onnx.load(str(graph)).graph.node)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantiser's advice, which is about what is done here anyway, out of the output."""
    logger, before = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
