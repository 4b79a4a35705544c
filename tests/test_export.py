"""Exported graphs beside the models that they are made of."""

from __future__ import annotations

import itertools
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="docs/requirements-serve.txt is not installed: pip install -r it")
pytest.importorskip("onnxruntime", reason="docs/requirements-serve.txt is not installed: pip install -r it")

import onnxruntime

from src.__main__ import main
from src.core.run_settings import DPCNN, RCNN, Denoise, Model, Pretrain, Recurrent, TextCNN, Transformer
from src.core.settings_loader import load_config
from src.core.storage import Output
from src.data.corpus import N_SPECIAL, PAD, UNK
from src.data.dataset import Dataset
from src.data.inputs import token_shape
from src.evaluation.workspace import Workspace
from src.models.classifier import build_model
from src.models.language import MaskedLanguageModel
from src.models.layers import mixture, words_and_shares
from src.serving.bundle import write_bundle
from src.serving.export import export_classifier, export_denoiser
from src.serving.onnx_engine import OnnxEngine, open_session
from src.serving.predictor import Predictor, Rows
from src.serving.quantisation import quantise
from src.training.denoising import Denoiser
from src.training.inference import mean_logits
from src.training.trained_fold import TrainedFold
from tests.conftest import error_of, words

SIZE, LABELS = 40, 5
SMALL = {"embedding_size": 16, "embedding_init": "random"}
SHAPES = [(1, 1), (2, 3), (3, 17), (5, 104)]
POOLINGS = typing.get_args(Model.model_fields["pooling"].annotation)
ENCODERS = {
    **{
        f"{cell}-{layers}": Recurrent(**SMALL, cell=cell, hidden_size=6, layers=layers, bidirectional=layers == 1)
        for cell, layers in itertools.product(("lstm", "gru", "rnn"), (1, 2))
    },
    "rotary": Transformer(**SMALL, heads=2, feedforward_size=24),
    "relative": Transformer(**SMALL, heads=2, feedforward_size=24, positions="relative"),
    "textcnn": TextCNN(**SMALL, widths=[2, 3], filters=6),
    "dpcnn": DPCNN(**SMALL, size=6),
    "rcnn": RCNN(**SMALL, hidden_size=6, size=10),
}
CASES = [
    *((name, "maxmean") for name in ENCODERS),
    *(("lstm-1", pooling) for pooling in POOLINGS if pooling != "maxmean"),
]


def reports(batch: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded tokens of every kind, the first report as wide as the batch."""
    rng = np.random.default_rng(batch * 1000 + width)
    lengths = np.append(width, rng.integers(1, width + 1, size=batch - 1))
    tokens = rng.integers(N_SPECIAL, SIZE, size=(batch, width))
    tokens[0, 0] = UNK
    tokens[np.arange(width) >= lengths[:, None]] = PAD
    return torch.from_numpy(tokens), torch.from_numpy(lengths)


def run(path, **inputs) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_a_graph_says_what_the_model_says_for_any_batch_and_length(tmp_path, name, pooling):
    torch.manual_seed(0)
    settings = ENCODERS[name].model_copy(update={"pooling": pooling})
    model = build_model(settings, token_shape(SIZE), LABELS).eval()
    export_classifier(model, tmp_path / "model.onnx")
    for shape in SHAPES:
        tokens, lengths = reports(*shape)
        with torch.inference_mode():
            wanted = model({"tokens": tokens}, lengths).numpy()
        (found,) = run(tmp_path / "model.onnx", tokens=tokens, lengths=lengths)
        np.testing.assert_allclose(found, wanted, atol=2e-5, err_msg=str(shape))


def test_a_graph_remembers_what_a_head_of_neighbours_does(tmp_path):
    torch.manual_seed(0)
    settings = ENCODERS["rotary"].model_copy(update={"pooling": "mean", "head": "neighbours"})
    model, rng = build_model(settings, token_shape(SIZE), LABELS).eval(), np.random.default_rng(0)
    tokens, lengths = reports(64, 20)
    with torch.inference_mode():
        features = model.pooled({"tokens": tokens}, lengths).numpy()
    model.head.fit(features, (rng.random((64, LABELS)) < 0.3).astype(np.float32), np.ones(64))
    export_classifier(model, tmp_path / "model.onnx")
    for batch in (1, 64):
        with torch.inference_mode():
            wanted = model({"tokens": tokens[:batch]}, lengths[:batch]).numpy()
        (found,) = run(tmp_path / "model.onnx", tokens=tokens[:batch], lengths=lengths[:batch])
        np.testing.assert_allclose(found, wanted, atol=2e-3)  # the exponent of the similarity makes much of rounding


@pytest.mark.parametrize("name", ["lstm-1", "rotary"])
def test_a_graph_reads_mixtures(tmp_path, name):
    torch.manual_seed(0)
    model = build_model(ENCODERS[name], token_shape(SIZE), LABELS).eval()
    export_classifier(model, tmp_path / "model.onnx", mixtures=True)
    for batch, width in SHAPES:
        tokens, lengths = reports(batch, width)
        words = torch.stack([tokens, (tokens + 1) % SIZE, (tokens + 2) % SIZE, tokens], dim=2)
        mixed = mixture(words, torch.rand(words.shape).softmax(dim=2))
        with torch.inference_mode():
            wanted = model({"tokens": mixed}, lengths).numpy()
        words, shares = words_and_shares(mixed)
        (found,) = run(tmp_path / "model.onnx", words=words.long(), shares=shares, lengths=lengths)
        np.testing.assert_allclose(found, wanted, atol=2e-5, err_msg=str((batch, width)))


@pytest.mark.parametrize("view", ["hard", "soft"])
def test_a_denoiser_s_graph_finds_the_same_words(tmp_path, view):
    torch.manual_seed(3)
    language = MaskedLanguageModel(build_model(ENCODERS["rotary"], token_shape(SIZE), 1))
    with torch.no_grad():  # far from the start, where all words are as likely
        language.bias.normal_(std=4.0)
    settings = Denoise(by="x", views=[view], prior=0.6, confidence=0.5)
    denoiser = Denoiser(language, Pretrain(epochs=1), settings, torch.device("cpu"), "fp32")
    export_denoiser(denoiser, view, tmp_path / "denoiser.onnx")
    changed = 0
    for shape in SHAPES:
        tokens, lengths = reports(*shape)
        (wanted,) = denoiser(tokens.numpy().astype(np.uint16), lengths.numpy(), [view])
        words, shares = run(tmp_path / "denoiser.onnx", tokens=tokens, lengths=lengths)
        if view == "hard":
            np.testing.assert_array_equal(words[:, :, 0], wanted)
            assert (shares == 1).all()
            changed += (wanted != tokens.numpy()).sum()
        else:
            likely, share = words_and_shares(torch.from_numpy(wanted))
            np.testing.assert_array_equal(words * (shares > 0), likely.numpy() * (share.numpy() > 0))
            np.testing.assert_allclose(shares, share.numpy(), atol=1e-4)
            changed += (shares[:, :, 1:] > 0.01).sum()
    assert changed > 20


def test_the_same_model_gives_the_same_bytes_without_a_path_in_them(tmp_path):
    torch.manual_seed(0)
    model = build_model(ENCODERS["lstm-1"], token_shape(SIZE), LABELS)
    contents = []
    for name in ("one", "two"):
        export_classifier(model, tmp_path / f"{name}.onnx")
        contents.append((tmp_path / f"{name}.onnx").read_bytes())
    assert contents[0] == contents[1]
    assert b"/src/" not in contents[0] and b".py" not in contents[0]


def test_an_export_leaves_training_as_it_was():
    """The forms that ONNX needs are taken while a graph is exported, and never else."""
    torch.manual_seed(0)
    model = build_model(ENCODERS["lstm-1"], token_shape(SIZE), LABELS).train()
    tokens, lengths = reports(3, 17)
    before = [parameter.grad_fn for parameter in [model({"tokens": tokens}, lengths)]]
    assert "_TakeBackward" in _names(before[0])


def _names(function) -> set[str]:
    names, waiting = set(), [function]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in names:
            names.add(type(one).__name__)
            waiting += [parent for parent, _ in one.next_functions]
    return names


@pytest.mark.parametrize(
    ("name", "operator", "count"), [("lstm-1", "DynamicQuantizeLSTM", 2), ("rotary", "MatMulInteger", 9)]
)
def test_int8_reaches_every_weight(tmp_path, name, operator, count):
    """Both directions of an LSTM; of each Transformer layer four products, and one of the head."""
    torch.manual_seed(0)
    model = build_model(ENCODERS[name], token_shape(SIZE), LABELS).eval()
    export_classifier(model, tmp_path / "model.onnx")
    made = quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert made[operator] == count
    assert (tmp_path / "int8.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size
    tokens, lengths = reports(5, 40)
    (full,) = run(tmp_path / "model.onnx", tokens=tokens, lengths=lengths)
    (small,) = run(tmp_path / "int8.onnx", tokens=tokens, lengths=lengths)
    assert 0 < np.abs(full - small).max() < 0.05 * np.abs(full).max() + 0.02


@pytest.mark.parametrize(("name", "operator"), [("gru-1", "GRU"), ("rnn-1", "RNN"), ("textcnn", "Conv")])
def test_what_onnxruntime_has_in_float32_alone_is_told(tmp_path, name, operator):
    model = build_model(ENCODERS[name], token_shape(SIZE), LABELS).eval()
    export_classifier(model, tmp_path / "model.onnx")
    assert f"computes with {operator}" in error_of(quantise, tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_an_lstm_that_quantisation_passes_over_is_told(tmp_path, monkeypatch):
    """As onnxruntime does, without a word, where weights are computed nodes."""
    from onnxruntime import quantization

    model = build_model(ENCODERS["lstm-1"], token_shape(SIZE), LABELS).eval()
    export_classifier(model, tmp_path / "model.onnx")
    original = quantization.quantize_dynamic
    monkeypatch.setattr(
        quantization,
        "quantize_dynamic",
        lambda *files, op_types_to_quantize, **how: original(*files, op_types_to_quantize=["MatMul"], **how),
    )
    assert "0 of 2 LSTM" in error_of(quantise, tmp_path / "model.onnx", tmp_path / "int8.onnx")


def test_an_lstm_whose_inputs_are_all_computed_is_told(tmp_path):
    """onnxruntime quantises none of its weights, and it has no constant to be counted by."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"w": (1, 8, 3), "r": (1, 8, 2)}
    nodes = [helper.make_node("Mul", [f"{name}0", "scale"], [name]) for name in shapes]
    nodes.append(helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2))
    graph = helper.make_graph(
        nodes,
        "it",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 1, 3]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(shape, np.float32), f"{name}0") for name, shape in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    assert "0 of 1 LSTM" in error_of(quantise, tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_an_engine_says_what_torch_says_of_a_run(copy):
    """Predicts every report, in its order, whatever the batches; graphs that are missing are made."""
    _engines_agree(copy, "lstm", "transformer")


@pytest.mark.slow
def test_an_engine_reads_each_view_of_a_denoised_report(copy, tiny_input):
    denoised = ["runs.lstm.denoise.by=transformer", "runs.lstm.denoise.views=[raw,hard,soft]"]
    denoised.append("runs.lstm.denoise.doubt=0.3")
    more = [*denoised, "runs.transformer.pretrain.epochs=1", "train.precision=fp32"]
    assert main(["train", "--model", "lstm", *words(tiny_input, copy, *more)]) == 0
    _engines_agree(copy, "lstm")


def _engines_agree(output: Path, *names: str) -> None:
    dataset = Dataset.load(Output(output))
    for name in names:
        folds = sorted((output / "runs" / name).glob("fold_*"))
        engine = OnnxEngine.load(folds, output, 1)
        rows = Rows(dict(dataset.train.inputs), np.asarray(dataset.train.lengths))
        found = engine.outputs(rows)
        for fold, logits in zip(folds, found, strict=True):
            trained = TrainedFold.load(fold, torch.device("cpu"))
            views, doubt = trained.views(dataset.train_folder), trained.run.denoise.doubt
            wanted = mean_logits(trained.model, views, rows.lengths, trained.device, doubt=doubt)
            np.testing.assert_allclose(logits, wanted, atol=2e-5)
        seventh = Rows({"tokens": rows.inputs["tokens"][7:8]}, rows.lengths[7:8])
        one = engine.outputs(seventh)
        np.testing.assert_allclose(one[:, 0], found[:, 7], atol=1e-5)


def test_a_bundle_is_served_by_either_engine_alike(done, tiny_input, tmp_path):
    file = tmp_path / "blend.bundle"
    workspace = Workspace(load_config("sample", [f"paths.input={tiny_input}", f"paths.output={done}"]))
    write_bundle(workspace, workspace.run("blend"), file)
    found = {}
    for engine in ("auto", "onnx", "torch"):
        predictor = Predictor.load(file, engine)
        assert predictor.engine == {"auto": "onnx"}.get(engine, engine)
        found[engine] = predictor.predict(predictor.encode([[12, 345, 6], [7] * 104, [65535]]))
    for engine in ("auto", "onnx"):
        np.testing.assert_allclose(found[engine].values, found["torch"].values, atol=1e-5)
        np.testing.assert_allclose(found[engine].spread, found["torch"].spread, atol=1e-5)


def test_a_file_that_is_no_graph_is_an_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    assert "cannot be read as a model" in error_of(lambda: open_session(tmp_path / "model.onnx", 1))
