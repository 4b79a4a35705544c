from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import torch

from src.core import array_files, storage
from src.core.run_settings import Features, Recurrent
from src.core.settings import Grid
from src.core.settings_loader import load_config
from src.data.corpus import CHUNK
from src.data.inputs import token_shape
from src.data.series_dataset import stay_shape
from src.data.synthetic_stays import make_sample
from src.data.tasks import get_task
from src.models.classifier import build_model
from src.pipeline import file_prediction
from src.pipeline.predicted_files import corpus_folder, predicted_file
from src.training import inference, prediction
from src.training.inference import predict_logits
from tests.series import STAYS, STEPS, stays

CPU = torch.device("cpu")


def test_parts_of_a_large_corpus_give_the_bytes_of_the_whole(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = build_model(Recurrent(cell="gru", embedding_size=8, hidden_size=6), STAYS, 1, None, Features())
    inputs = stays(90)
    model.input_layer.fit(**inputs)
    lengths = np.full(90, STEPS)
    whole = predict_logits(model, inputs, lengths, CPU, batch_size=16)
    for name, array in inputs.items():
        array_files.write_npy(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in inputs}
    sizes, batches = [], inference.length_batches

    def counted(part, *arguments):
        sizes.append(len(part["values"]))
        return batches(part, *arguments)

    monkeypatch.setattr(inference, "length_batches", counted)
    monkeypatch.setattr(inference, "CHUNK_BYTES", 40 * sum(array[:1].nbytes for array in inputs.values()))
    np.testing.assert_array_equal(predict_logits(model, mapped, lengths, CPU, batch_size=16), whole)
    assert sizes == [32, 32, 26]  # whole batches of at most 40 rows
    rows = np.arange(89, -1, -1)
    np.testing.assert_allclose(predict_logits(model, mapped, lengths, CPU, rows, batch_size=16), whole[rows], atol=1e-6)


def test_a_corpus_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    inputs = stays(5)
    for name, array in inputs.items():
        array_files.write_npy(tmp_path / f"{name}.npy", array)
    array_files.write_npy(tmp_path / "rows.npy", np.arange(5))
    calls, hashed = [], storage.array_hash
    monkeypatch.setattr(storage, "array_hash", lambda *arrays: calls.append(arrays) or hashed(*arrays))
    names = {prediction.prediction_name(tmp_path) for _ in range(3)}
    assert names == {f"logits.{hashed(inputs['values'], inputs['statics'])}.npy"} and len(calls) == 1
    copies = prediction.prediction_name(tmp_path, tmp_path / "rows.npy")
    assert copies == f"copies.{hashed(inputs['values'], inputs['statics'], np.arange(5))}.npy" and len(calls) == 2
    array_files.write_npy(tmp_path / "values.npy", inputs["values"] + 1)
    assert prediction.prediction_name(tmp_path) not in names and len(calls) == 3


def test_runs_that_read_a_set_alike_share_its_arrays(tmp_path):
    make_sample(tmp_path / "in", rows=10, test_rows=20, seed=0)
    settings, task = load_config("quick", ["task=icu"]), get_task("icu")

    def run(name: str, step: float) -> SimpleNamespace:
        grid = Grid(step=step)
        record = {"data": grid.model_dump(), "inputs": stay_shape(grid, task).to_json()}
        return SimpleNamespace(name=name, task=task, record=record)

    file = predicted_file(tmp_path / "in/set-b.zip", settings)
    runs = [run(name, step) for name, step in (("a", 1), ("b", 2), ("c", 1), ("d", 2))]
    facts = file.encode(runs, tmp_path / "made", 1)
    folders = [corpus_folder(tmp_path / "made", file.encoding(one), 0) for one in runs]
    assert facts["rows"] == [20] and folders[0] == folders[2] != folders[1] == folders[3]
    shapes = [np.load(folder / "values.npy", mmap_mode="r").shape for folder in folders]
    assert shapes[:2] == [(20, 48, 37), (20, 24, 37)]
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"rows", *(path.parent.name for path in folders)}


def test_runs_that_number_words_alike_share_the_tokens_of_a_file(write, tmp_path, capsys):
    def run(name: str, words: list[int], max_len: int) -> SimpleNamespace:
        storage.write_text(tmp_path / name / "vocabulary.json", json.dumps(words))
        record = {"data": {"max_len": max_len, "keep": "head"}}
        return SimpleNamespace(name=name, path=tmp_path / name, record=record)

    file = predicted_file(write(b"1|,|7 8 9 8\n2|,|\n3|,|9\n"), load_config("quick"))
    runs = run("a", [7, 8], 3), run("b", [7, 8], 3), run("c", [7, 8, 9], 3), run("d", [7, 8], 4)
    made = tmp_path / "made"
    facts = file.encode(runs, made, 1)
    names = [file.encoding(one) for one in runs]
    assert names[0] == names[1] and len(set(names)) == 3
    assert {path.name for path in made.iterdir()} == {"rows", "read.json", *names}
    shards = [[np.load(corpus_folder(made, name, i) / "tokens.npy").tolist() for i in range(2)] for name in names[1:]]
    assert shards == [[[[3, 4, 1]], [[1, 0, 0]]], [[[3, 4, 5]], [[5, 0, 0]]], [[[3, 4, 1, 4]], [[1, 0, 0, 0]]]]
    assert (facts["rows"], facts["empty"], facts["first"], facts["positives"]) == ([2, 1], 1, [1], None)
    assert storage.read_json(made / "read.json") == json.loads(json.dumps(facts))
    file.tell(runs, facts)
    warned = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in warned] == [
        "a",
        "1 reports are longer than max_len=3",
        "1 reports are longer than max_len=3",
        "d",
    ]


def test_cuts_at_chunks_change_no_batch(monkeypatch):
    """Bits depend on batch mates, so a file that is cut where chunks end has the same mates."""
    torch.manual_seed(0)
    model = build_model(Recurrent(cell="gru", embedding_size=8, hidden_size=6), token_shape(20), 2)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 150)
    tokens = np.where(np.arange(8) < lengths[:, None], rng.integers(3, 20, (150, 8)), 0).astype(np.uint16)
    start, mates, batches = 0, set(), inference.length_batches

    def noted(*arguments):
        nonlocal start
        found = batches(*arguments)
        mates.update(frozenset((start + batch.rows).tolist()) for batch in found)
        start += sum(len(batch.rows) for batch in found)
        return found

    def batches_of(cut: int) -> tuple[set[frozenset[int]], np.ndarray]:
        nonlocal start, mates
        start, mates = 0, set()
        parts = [slice(at, at + cut) for at in range(0, 150, cut)]
        found = [predict_logits(model, {"tokens": tokens[p]}, lengths[p], CPU, batch_size=8, chunk=32) for p in parts]
        return mates, np.concatenate(found)

    monkeypatch.setattr(inference, "length_batches", noted)
    for room in (1 << 20, 16 * tokens[0].nbytes):  # chunks in one piece, and in halves
        monkeypatch.setattr(inference, "CHUNK_BYTES", room)
        whole, logits = batches_of(150)
        for cut in (32, 64, 128):
            found, its = batches_of(cut)
            assert found == whole
            np.testing.assert_array_equal(its, logits)
        assert batches_of(50)[0] != whole


def test_shards_end_where_chunks_end():
    for wanted, size in ((1, CHUNK), (CHUNK, CHUNK), (CHUNK + 1, 2 * CHUNK)):
        settings = load_config("quick", [f"predict.shard={wanted}"])
        assert file_prediction._shard_size(SimpleNamespace(settings=settings)) == size
