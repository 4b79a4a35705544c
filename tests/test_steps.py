from __future__ import annotations

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.core.run_settings import Recurrent, TextCNN, Train, Transformer
from src.data.inputs import token_shape
from src.models.classifier import build_model
from src.models.language import MaskedLanguageModel
from src.training import devices
from src.training.batching import Batch
from src.training.classification import Classification
from src.training.epoch_reader import Wanted
from src.training.pretraining import Language
from src.training.regimes import OBJECTIVES
from src.training.steps import Steps, steps_of, tensors_of, with_tensors
from tests.series import STAYS
from tests.test_classification import CPU, SIZE, SMALL, TASK, rows


def test_a_batch_with_other_tensors_is_the_same_batch():
    """A graph reads a batch from tensors of its own, which each batch of the shape is copied to."""
    twin = Batch({"tokens": torch.ones(2, 3)}, torch.tensor([3, 2]), np.arange(2))
    batch = Batch({"tokens": torch.zeros(2, 4)}, torch.tensor([4, 1]), np.array([5, 6]))
    given = batch, Wanted(torch.zeros(2, 3), torch.ones(2), twin)
    tensors = tensors_of(given)
    assert [list(tensor.shape) for tensor in tensors] == [[2, 4], [2], [2, 3], [2], [2, 3], [2]]
    copies = [tensor + 1 for tensor in tensors]
    kept, wanted = with_tensors(given, iter(copies))
    assert type(kept) is Batch and type(wanted) is Wanted and type(wanted.twin) is Batch
    assert kept.inputs["tokens"] is copies[0] and wanted.twin.lengths is copies[5]
    assert kept.rows is batch.rows and kept.domain is None


def test_steps_on_a_cpu_start_kernel_by_kernel():
    model = build_model(SMALL, token_shape(SIZE), 3)
    objective = Classification(TASK, model, rows(), rows(48), Train(batch_size=16), CPU, "fp32")
    assert objective.is_recordable and not objective.has_graphs
    assert type(steps_of(objective, objective.make_optimizer())) is Steps


LSTM, TRANSFORMER = Recurrent(embedding_init="random"), Transformer(embedding_init="random")


@pytest.mark.parametrize(
    ("model", "shape", "is_tried"),
    [
        (LSTM, token_shape(SIZE), True),
        (TRANSFORMER, token_shape(SIZE), True),
        (LSTM.model_copy(update={"cell": "gru"}), token_shape(SIZE), False),
        (TextCNN(embedding_init="random"), token_shape(SIZE), False),
        (LSTM, STAYS, False),
    ],
    ids=["lstm", "transformer", "gru", "textcnn", "series"],
)
def test_what_was_tried_as_a_graph_is_recorded(model, shape, is_tried):
    """Nothing else is: it might look at the CPU, which a graph cannot."""
    built = build_model(model, shape, 3)
    objective = object.__new__(Classification)
    objective.model, objective._denoiser = built, None
    assert objective.is_recordable == is_tried
    if shape.kind == "tokens":
        language = object.__new__(Language)
        language.model = MaskedLanguageModel(built)
        assert language.is_recordable == is_tried
    objective._denoiser = object()
    assert not objective.is_recordable
    for kind in OBJECTIVES.values():
        other = object.__new__(kind)
        other.model, other._denoiser = built, None
        assert not other.is_recordable, kind


def test_compiling_on_a_gpu_is_told():
    with pytest.raises(UserError, match="train.compile=true is for a CPU"):
        devices.compiled(torch.nn.Linear(1, 1), torch.device("cuda"))
