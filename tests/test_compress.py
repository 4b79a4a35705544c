"""./run.sh compress: students, pruning, the table of variants, the gate and the small bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="docs/requirements-serve.txt is not installed: pip install -r it")
pytest.importorskip("onnxruntime", reason="docs/requirements-serve.txt is not installed: pip install -r it")

from src.core.run_settings import Recurrent, TextCNN, Transformer
from src.core.settings import Compress
from src.core.settings_loader import load_config
from src.data.corpus import Corpus
from src.data.inputs import token_shape
from src.data.submission_files import read_submission
from src.data.tasks import ICU, ROUND1
from src.ensemble.blending import BlendWeights
from src.evaluation.metrics import Estimate
from src.evaluation.workspace import Workspace
from src.models.classifier import build_model
from src.pipeline.commands import compress
from src.serving import compression
from src.serving.bundle import Bundle
from src.serving.compression import Scored, take
from src.serving.distillation import plan_student
from src.serving.predictor import Predictor, Rows
from src.serving.pruning import pruned_classifier, pruned_model
from src.training.prediction import mean_prediction
from tests.conftest import error_of, run_command, words

SIZE = 30
COSTS = {"batch_1": 1.0, "batch_64": 2.0, "reports_per_second": 3.0, "memory": 4.0}


@pytest.fixture(scope="module")
def compressed(made_once, tiny_input, done) -> Path:
    """Output of ./run.sh compress blend. Timing takes a process for each variant and has a test of its own."""

    def make(output: Path) -> None:
        shutil.copytree(done, output, copy_function=shutil.copy2, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compression, "measure", lambda variants, rows: {one.name: COSTS for one in variants})
            run_command(["compress", "blend", *words(tiny_input, output, "compress.epochs=1", "compress.max_loss=1")])

    return made_once("compressed", make)


@pytest.fixture(scope="module")
def table(compressed) -> dict:
    return json.loads((compressed / "compressed/blend/compress.json").read_text())


def test_the_table_has_every_variant_and_the_smallest_is_taken(table):
    rows = {row["name"]: row for row in table["variants"]}
    names = ("blend_small", "blend_small, INT8", "blend_pruned", "blend_pruned, INT8")
    assert tuple(rows) == ("blend", "blend, ONNX", "blend, INT8", *names) and not table["left_out"]
    assert table["taken"] == min(rows, key=lambda name: rows[name]["bytes"])
    assert rows["blend_small, INT8"]["bytes"] < rows["blend_small"]["bytes"] < rows["blend, ONNX"]["bytes"]
    assert rows["blend_pruned"]["bytes"] < rows["blend_small"]["bytes"]
    for on in ("out_of_fold", "selected"):
        assert rows["blend"][f"gain_{on}"] == {"value": 0.0, "standard_error": 0.0}
        assert abs(rows["blend, ONNX"][f"gain_{on}"]["value"]) < 1e-5
        difference = rows["blend_small"][on]["value"] - rows["blend"][on]["value"]
        assert rows["blend_small"][f"gain_{on}"]["value"] == pytest.approx(difference)


def test_scores_are_those_of_the_runs_themselves(compressed, table):
    """The graphs of fold students say of each row what torch said of it out of fold."""
    rows = {row["name"]: row for row in table["variants"]}
    for name in ("blend_small", "blend_pruned"):
        score = json.loads((compressed / "runs" / name / "score.json").read_text())
        assert rows[name]["out_of_fold"]["value"] == pytest.approx(score["overall"]["score"]["value"], abs=1e-5)
        assert "taught by that fold's models of blend" in score["how"]


def test_a_fold_s_student_is_taught_by_that_fold_alone(compressed):
    run = json.loads((compressed / "runs/blend/run.json").read_text())
    corpus = compressed / "data/test/sample_testA"
    for fold in (0, 1):
        of_fold = [
            mean_prediction(sorted((compressed / "runs" / m).glob(f"fold_{fold}.*")), corpus) for m in run["members"]
        ]
        wanted = BlendWeights.from_json(run["fold_weights"][str(fold)]).apply(of_fold)
        taught = np.load(compressed / f"runs/blend_small/lessons/{fold}.2021.1.npy")
        np.testing.assert_allclose(taught, wanted, atol=1e-5)
        rows = np.load(compressed / f"runs/blend_small/lessons/{fold}.2021.rows.npy")
        (folder,) = (compressed / "runs/blend_small").glob(f"fold_{fold}.*")
        with np.load(folder / "split.npz") as split:
            assert not np.isin(rows, split["predicted_rows"]).any()
            assert np.array_equal(rows, split["train_rows"])


def test_the_small_bundle_predicts_as_its_graph_of_all_rows(compressed, table, tiny_input, tmp_path):
    bundle = Bundle.open(compressed / "blend_small.bundle")
    assert bundle.record["compressed"]["taken"] == table["taken"]
    assert not bundle.has(".safetensors") and bundle.has(".onnx")
    assert bundle.record["models"] == {bundle.name: 1}
    predictor = Predictor.load(bundle.path)
    assert predictor.engine == "onnx"
    corpus = Corpus.load(compressed / "data/test/sample_testA")
    values, _ = predictor.predict(Rows(dict(corpus.inputs), np.asarray(corpus.lengths)))
    run_command(
        [
            "predict",
            "--bundle",
            str(bundle.path),
            str(tiny_input / "sample_testA.csv"),
            "--to",
            str(tmp_path / "it.csv"),
        ]
    )
    _, written = read_submission(tmp_path / "it.csv")
    np.testing.assert_allclose(written, values, rtol=1e-4, atol=1e-5)
    assert bundle.path.stat().st_size < (compressed / "runs/blend_small").stat().st_size + 400_000


def test_batch_mates_change_no_prediction(compressed):
    """Nor do they in INT8, whose scales are of a whole batch."""
    predictor = Predictor.load(compressed / "blend_small.bundle")
    corpus = Corpus.load(compressed / "data/test/sample_testA")
    together = predictor.predict(Rows(dict(corpus.inputs), np.asarray(corpus.lengths))).values
    for row in (0, 7, 39):
        alone = Rows({"tokens": corpus.tokens[row : row + 1, : corpus.lengths[row]]}, corpus.lengths[row : row + 1])
        np.testing.assert_array_equal(predictor.predict(alone).values[0], together[row])


def test_a_variant_is_timed_in_a_process_of_its_own(compressed):
    workspace = Workspace(load_config("sample", [f"paths.output={compressed}"]))
    folder = compressed / "compressed/blend/blend_small.int8"
    run = compression._run_in(folder, workspace.run("blend_small"))
    variant = compression.Variant("it", folder, run, {})
    corpus = Corpus.load(compressed / "data/test/sample_testA")
    rows = Rows(dict(corpus.inputs), np.asarray(corpus.lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "ROUNDS", 1)
        (found,) = compression.measure([variant], rows).values()
    assert 0 < found["batch_1"] < found["batch_64"] and found["reports_per_second"] > 1
    assert 20 < found["memory"] < 2000
    assert variant.size == sum(file.stat().st_size for file in variant.shipped[0].glob("*.onnx"))


def scored(loss: float) -> Scored:
    zero = Estimate(0.0, 0.0)
    return Scored(zero, zero, zero, Estimate(-loss, 0.001))


def test_the_gate_refuses_what_loses_too_much():
    sizes = {"large": 3, "small": 2, "tiny": 1}
    variants = [SimpleNamespace(name=name, size=size, is_small=True) for name, size in sizes.items()]
    losses = {"large": scored(0.0), "small": scored(0.002), "tiny": scored(0.003)}
    assert take(variants, losses, 0.002).name == "small"
    assert take(variants, losses, 0.003).name == "tiny"
    assert take(variants[1:], losses, 0.001) is None
    itself = SimpleNamespace(name="large", size=3, is_small=False)
    assert take([itself, *variants[1:]], losses, 0.001) is None


def test_the_run_in_float32_is_no_small_model(compressed, tmp_path):
    workspace = Workspace(load_config("sample", [f"paths.output={compressed}"]))
    run = workspace.run("lstm")
    exported = compression.float_variant(workspace, run, "it", tmp_path / "it")
    assert not compression.as_it_is(workspace, run).is_small and not exported.is_small
    assert compression.int8_variant(exported, "it, INT8", tmp_path / "int8").is_small


def test_no_bundle_is_written_where_every_small_model_loses_too_much(tmp_path, monkeypatch):
    losses = {"blend": 0.0, "blend, ONNX": 0.0, "blend_small": 0.004, "blend_small, INT8": 0.006}
    variants = [
        SimpleNamespace(name=name, engine="onnx", size=1, is_small="small" in name)
        for name in losses
        if name != "blend"
    ]
    variants.append(SimpleNamespace(name="blend", engine="torch", size=9, is_small=False))
    monkeypatch.setattr(compress, "_variants", lambda *_: (variants, {}))
    monkeypatch.setattr(compression, "own_logits", lambda *_: "blend")
    monkeypatch.setattr(compression, "out_of_fold", lambda _, variant: variant.name)
    monkeypatch.setattr(compression, "scored", lambda _, found, of_run: scored(losses[found]))
    monkeypatch.setattr(compression, "timed_rows", lambda _: None)
    monkeypatch.setattr(compression, "measure", lambda variants, _: {one.name: COSTS for one in variants})
    settings = SimpleNamespace(compress=Compress(max_loss=0.002), select_on="shifted")
    output = SimpleNamespace(compressed=lambda _: tmp_path / "compressed")
    workspace = SimpleNamespace(output=output, settings=settings, target=None, task=ROUND1)
    source = SimpleNamespace(name="blend", score={"fingerprint": "f"})
    to = tmp_path / "blend_small.bundle"
    told = error_of(compress.compress, workspace, source, to)
    assert told.startswith("no bundle was written: every small model of blend loses more than compress.max_loss=0.002")
    assert "the best is blend_small with -0.0040±10" in told and "compress.epochs" in told and "earlier" not in told
    assert not to.exists()
    assert json.loads((tmp_path / "compressed/compress.json").read_text())["taken"] is None
    to.write_bytes(b"older")
    assert f"{to} is of an earlier compress and stays" in error_of(compress.compress, workspace, source, to)
    assert to.read_bytes() == b"older"


def test_a_run_of_series_is_refused():
    workspace = SimpleNamespace(settings=SimpleNamespace(compress=Compress()))
    assert "ONNX lacks" in error_of(plan_student, workspace, SimpleNamespace(task=ICU, name="grud"))


MODELS = [
    Transformer(embedding_size=16, heads=4, feedforward_size=32, embedding_init="random"),
    Transformer(embedding_size=16, heads=4, feedforward_size=32, embedding_init="random", positions="relative"),
    Recurrent(embedding_size=16, hidden_size=8, layers=2, pooling="lastmaxmean"),
    Recurrent(embedding_size=16, hidden_size=8, cell="gru", pooling="label"),
    Recurrent(embedding_size=16, hidden_size=8, cell="rnn", bidirectional=False),
]


def fold_of(settings) -> tuple[SimpleNamespace, list]:
    torch.manual_seed(0)
    model = build_model(settings, token_shape(SIZE), 17).eval()
    batches = [
        ({"tokens": torch.randint(3, SIZE, (6, 9))}, torch.randint(1, 10, (6,)), torch.randint(0, 2, (6, 17)).float())
        for _ in range(4)
    ]
    return SimpleNamespace(model=model, task=ROUND1), batches


@pytest.mark.parametrize("settings", MODELS, ids=lambda one: f"{one.encoder}-{getattr(one, 'cell', '')}{one.pooling}")
def test_pruning_nothing_changes_nothing(settings):
    trained, batches = fold_of(settings)
    inputs, lengths, _ = batches[0]
    same = pruned_classifier(trained, pruned_model(settings, 0.0), batches).eval()
    torch.testing.assert_close(same(inputs, lengths), trained.model(inputs, lengths))
    smaller = pruned_classifier(trained, pruned_model(settings, 0.25), batches)
    assert sum(one.numel() for one in smaller.parameters()) < sum(one.numel() for one in same.parameters())


def test_parts_that_nothing_reads_are_pruned():
    """Without them the model says the same: one head and eight units of each layer."""
    trained, batches = fold_of(MODELS[0])
    with torch.no_grad():
        for block in trained.model.encoder.blocks:
            block.attention.project_out.weight[:, 8:12] = 0  # the third head
            block.feedforward[2].weight[:, 5:13] = 0
    inputs, lengths, _ = batches[0]
    smaller = pruned_classifier(trained, pruned_model(MODELS[0], 0.25), batches).eval()
    assert smaller.encoder.blocks[0].attention.heads == 3
    torch.testing.assert_close(smaller(inputs, lengths), trained.model(inputs, lengths))


def test_what_has_no_parts_is_not_pruned():
    assert "not textcnn" in error_of(pruned_model, TextCNN(), 0.5)
    assert "hierarchical" in error_of(pruned_model, Recurrent(pooling="hierarchical"), 0.5)


def test_a_setting_that_only_pruning_uses_changes_no_fingerprint():
    assert "head_size" not in Transformer().model_dump()
    assert Transformer(heads=3, head_size=32).model_dump()["head_size"] == 32
