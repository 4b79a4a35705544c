from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.core.run_settings import Pretrain, Recurrent, Transformer
from src.data.corpus import MASK, N_SPECIAL, PAD
from src.data.inputs import token_shape
from src.models.classifier import BODY, build_model
from src.models.language import MaskedLanguageModel
from src.training import checkpoints
from src.training.loop import fit
from src.training.pretraining import Language, Text

CPU = torch.device("cpu")
SIZE = 24
SMALL = {"embedding_size": 16, "embedding_init": "random", "spatial_dropout": 0.0}
FAMILY = [Recurrent(**SMALL, hidden_size=16), Transformer(**SMALL, heads=2, layers=1, feedforward_size=32, dropout=0.0)]


def text(n: int = 400, seed: int = 0) -> Text:
    """A language in which each word tells the next: word w is followed by w + 1, round and round."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 13, size=n).astype(np.int32)
    words = N_SPECIAL + (rng.integers(0, SIZE - N_SPECIAL, size=(n, 1)) + np.arange(14)) % (SIZE - N_SPECIAL)
    tokens = np.where(np.arange(14) < lengths[:, None], words, PAD).astype(np.uint16)
    return Text(tokens, lengths, np.arange(n).astype("S"), np.arange(n, dtype=np.uint16) % 3)


def language(settings: Pretrain, model=FAMILY[0], n: int = 400, rows: np.ndarray | None = None) -> Language:
    torch.manual_seed(1)
    model = MaskedLanguageModel(build_model(model, token_shape(SIZE), 1))
    return Language(model, text(n), settings, CPU, "fp32", rows)


@pytest.mark.parametrize("model", FAMILY, ids=["recurrent", "transformer"])
def test_the_language_is_learned(tmp_path, model):
    """Hidden words are found by their neighbours, and so are those that stand in another's place."""
    settings = Pretrain(epochs=30, batch_size=16, learning_rate=0.01, select=0.4, detection=1.0, spans=[1.0])
    objective = language(settings, model, 800)
    history = fit(objective, (1, 0), tmp_path, lambda news: None)
    assert history[-1]["valid_loss"] < 0.5 * math.log(SIZE - N_SPECIAL) < history[0]["valid_loss"]
    tokens, lengths, *_ = text(400, seed=5)
    tokens, lengths = tokens[lengths > 8], lengths[lengths > 8]
    shown = tokens.copy()
    shown[:, 2], shown[:, 5] = MASK, N_SPECIAL + (tokens[:, 5] - N_SPECIAL + 9) % (SIZE - N_SPECIAL)
    places = np.arange(len(tokens)) * 14 + 2
    with torch.inference_mode():
        shown, lengths, places = map(torch.from_numpy, (shown.astype(np.int32), lengths.astype(np.int64), places))
        words, odd = objective.model.eval()({"tokens": shown}, lengths, places)
    assert (words.argmax(dim=1).numpy() + N_SPECIAL == tokens[:, 2]).mean() > 0.9
    assert (odd[:, 5] > odd[:, 7]).float().mean() > 0.85


def test_rows_that_are_left_out_are_neither_learned_from_nor_judged_by():
    read = np.arange(0, 400, 3)
    objective = language(Pretrain(batch_size=16), rows=read)
    learned = np.concatenate([batch.rows for batch, _asked in objective.batches(np.random.default_rng(0))])
    judged = np.setdiff1d(read, learned)
    assert len(learned) == len(set(learned)) and set(learned) < set(read) and 1 <= len(judged) <= 4
    before = objective.validate(objective.model).loss
    others = np.setdiff1d(np.arange(400), read)
    objective._text.tokens[others, :5] = N_SPECIAL
    assert objective.validate(objective.model).loss == before
    objective._text.tokens[judged, :5] = N_SPECIAL
    assert objective.validate(objective.model).loss != before


def test_the_loss_is_over_the_places_asked_alone():
    objective = language(Pretrain(select=0.3, batch_size=16))
    model = objective.model.eval()
    batch, wanted = next(objective.batches(np.random.default_rng(0)))
    with torch.inference_mode():
        loss = objective.loss(model, batch, wanted)
        everywhere = torch.arange(batch.inputs["tokens"].numel())
        words, _ = model(batch.inputs, batch.lengths, everywhere)
    log_p = words.log_softmax(dim=1)
    expected = -log_p[wanted.places, wanted.words].mean()
    torch.testing.assert_close(loss, expected)
    assert 0 < len(wanted.places) < 0.6 * batch.lengths.sum()


def test_asked_everywhere_the_loss_is_that_of_the_places_asked():
    """So are batches of CUDA graphs, whose shapes do not depend on the number of words that are asked for."""
    objective = language(Pretrain(select=0.3, batch_size=16, detection=1.0))
    model, given = objective.model.eval(), (np.arange(64), 16)
    pairs = zip(*(objective._questions(*given, np.random.default_rng(0), all_) for all_ in (False, True)), strict=True)
    for (batch, some), (same, everywhere) in pairs:
        assert everywhere.places is None and everywhere.words.numel() == batch.inputs["tokens"].numel()
        assert torch.equal(everywhere.words[some.places], some.words)
        torch.testing.assert_close(objective.loss(model, same, everywhere), objective.loss(model, batch, some))


def test_an_epoch_holds_every_report_once_but_those_held_out():
    objective = language(Pretrain(batch_size=16))
    rows = np.concatenate([batch.rows for batch, _ in objective.batches(np.random.default_rng(0))])
    assert len(rows) == len(set(rows)) == 400 - 8
    tokens, lengths, *_ = text()
    for batch, wanted in objective.batches(np.random.default_rng(0)):
        width = batch.inputs["tokens"].shape[1]
        clean = torch.from_numpy(tokens[batch.rows, :width].astype(np.int64))
        np.testing.assert_array_equal(wanted.words, clean.flatten()[wanted.places] - N_SPECIAL)
        odd = (batch.inputs["tokens"] != clean) & (batch.inputs["tokens"] != MASK)
        np.testing.assert_array_equal(wanted.replaced, odd)
        inside = torch.arange(width) < torch.from_numpy(lengths[batch.rows])[:, None]
        np.testing.assert_array_equal(wanted.shown, inside & (batch.inputs["tokens"] != MASK))
        np.testing.assert_array_equal(batch.domain, batch.rows % 3)
    assert objective.n_batches == 25


def test_resumed_pretraining_ends_in_the_same_bytes(tmp_path):
    settings = Pretrain(epochs=3, batch_size=32, detection=1.0)

    def run(folder, stop_after=None):
        objective = language(settings)

        def progress(news):
            if news["epoch"] == stop_after:
                raise KeyboardInterrupt

        try:
            fit(objective, (1, 0), folder, progress)
        except KeyboardInterrupt:
            return None
        return b"".join(tensor.numpy().tobytes() for tensor in objective.model.state_dict().values())

    whole = run(tmp_path / "whole")
    run(tmp_path / "stopped", stop_after=2)
    assert run(tmp_path / "stopped") == whole


def test_stop_loss_leaves_it_underfitted(tmp_path):
    settings = Pretrain(epochs=30, batch_size=16, learning_rate=0.01)
    losses = [epoch["train_loss"] for epoch in fit(language(settings), (1, 0), tmp_path / "a", lambda n: None)]
    limit = sorted(losses)[20]
    stopped = settings.model_copy(update={"stop_loss": limit})
    history = fit(language(stopped), (1, 0), tmp_path / "b", lambda news: None)
    assert 1 < len(history) < 30
    assert history[-1]["train_loss"] < limit <= min(epoch["train_loss"] for epoch in history[:-1])


def test_classifiers_start_from_the_body_alone(tmp_path):
    objective = language(Pretrain())
    checkpoints.save_weights(tmp_path / "last.safetensors", objective.model)
    classifier = build_model(FAMILY[0].model_copy(update={"pooling": "mean"}), token_shape(SIZE), 5)
    head = classifier.head.weight.detach().clone()
    checkpoints.load_parts(tmp_path / "last.safetensors", classifier, BODY)
    assert torch.equal(classifier.input_layer.embedding.weight, objective.model.input_layer.embedding.weight)
    for name, weight in classifier.encoder.state_dict().items():
        assert torch.equal(weight, objective.model.encoder.state_dict()[name])
    assert torch.equal(classifier.head.weight, head)
    other = build_model(FAMILY[0].model_copy(update={"hidden_size": 9}), token_shape(SIZE), 5)
    with pytest.raises(UserError, match="cannot be read as weights of this model"):
        checkpoints.load_parts(tmp_path / "last.safetensors", other, BODY)
    with pytest.raises(UserError, match=r"none.safetensors is missing. Make it with: ./run.sh pretrain"):
        checkpoints.load_parts(tmp_path / "none.safetensors", other, BODY)


@pytest.mark.parametrize("detection", [0.0, 1.0])
def test_a_validation_loss_that_is_not_finite_names_the_validation_reports(detection):
    objective = language(Pretrain(batch_size=16, detection=detection))
    valid = objective._valid
    objective._text.lengths[valid[:2]] = 1  # the only reports with this one word, which is asked for or shown
    objective._text.tokens[objective._text.tokens == SIZE - 1] = N_SPECIAL
    objective._text.tokens[valid[:2]] = PAD
    objective._text.tokens[valid[:2], 0] = SIZE - 1
    with torch.no_grad():
        objective.model.bias[-1] = float("nan")
    loss, broken = objective.validate(objective.model)
    assert math.isnan(loss) and len(broken) == len(valid), "each prediction of a word is a share of all"
    with torch.no_grad():
        objective.model.bias[-1] = -torch.inf
    loss, broken = objective.validate(objective.model)
    assert math.isinf(loss)
    np.testing.assert_array_equal(broken, objective.ids(valid[:2]))


def test_padding_stays_nothing(tmp_path):
    """The word head ends in the embedding: padding must not become a word by it."""
    settings = Pretrain(epochs=2, batch_size=16, learning_rate=0.01)
    objective = language(settings)
    fit(objective, (1, 0), tmp_path, lambda news: None)
    assert objective.model.input_layer.embedding.weight[PAD].abs().max() == 0
