"""Reports with the words put right that a pretrained encoder takes for noise.

The noise is known: a word is replaced by any other with the same chance, whatever stands around it. So Bayes' rule
tells from what the language model expects at a place whether the word that stands there belongs there. Models then read
less noise than the tests hold, and the gap between train and tests narrows.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src import artifacts, checkpoints
from src.batching import WIDTHS, length_batches
from src.config import Denoise, Pretrain, Run
from src.corpus import BLOCK, N_SPECIAL, Corpus
from src.hardware import autocast
from src.models import build_model
from src.models.language import MaskedLanguageModel

BATCH_SIZE = 128
LARGE = 80.0
"""Log odds beyond which float32 has no numbers."""


class Denoiser:
    """Padded tokens (N, max_len) and lengths (N,) -> tokens with some words replaced by likelier ones.

    A word is replaced where it is wrong with a probability above settings.confidence, by the likeliest one there if
    that is more likely than not.
    """

    def __init__(
        self, model: MaskedLanguageModel, pretrain: Pretrain, settings: Denoise, device: torch.device, precision: str
    ):
        self._model, self._settings, self._device, self._precision = model.eval(), settings, device, precision
        # The model learned from places where replaced words were as common as its questions made them. Here they are
        # rarer, and the odds of the word that is shown rise by as much.
        taught = (1 - pretrain.masked - pretrain.replaced) / pretrain.replaced
        self._lift = math.log((1 - settings.prior) / settings.prior) - math.log(taught)

    @classmethod
    def load(cls, folder: Path, settings: Denoise, device: torch.device, precision: str) -> Denoiser:
        """Of a PretrainJob's folder."""
        result = artifacts.read_json(artifacts.require(folder / "result.json", "pretrain"))
        run = Run.model_validate(result["run"])
        model = MaskedLanguageModel(build_model(run.model, result["vocabulary_size"], 1))
        checkpoints.load_weights(folder / "last.safetensors", model)
        return cls(model.to(device), run.pretrain, settings, device, precision)

    def __call__(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        found = np.array(tokens)
        with torch.inference_mode(), autocast(self._precision, self._device):
            for start in range(0, len(found), BLOCK):
                block = slice(start, start + BLOCK)
                for batch in length_batches(found[block], lengths[block], BATCH_SIZE, self._device, WIDTHS):
                    rows = start + batch.rows
                    found[rows, : batch.tokens.shape[1]] = self._put_right(batch.tokens, batch.lengths).cpu().numpy()
        return found

    def _put_right(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        places = (inside & (tokens >= N_SPECIAL)).flatten().nonzero()[:, 0]
        logits = self._model(tokens, lengths, places)[0]  # (K, V)
        words = tokens.flatten()[places].long() - N_SPECIAL
        # Relative to the odds of the word that is shown, which alone are lifted: so no (K, V) is written anew.
        best, word = logits.max(dim=1)
        shown = logits.gather(1, words[:, None])[:, 0].float()
        others = (logits.logsumexp(dim=1).float() - shown).clamp(0, LARGE).expm1()
        lift = math.exp(self._lift)
        wrong = others / (others + lift) > self._settings.confidence
        wrong &= (best.float() - shown).clamp_max(LARGE).exp() / (others + lift) > 0.5
        changed = tokens.flatten().clone()
        changed[places[wrong]] = (word + N_SPECIAL).to(tokens.dtype)[wrong]
        return changed.view_as(tokens)


def denoised_tokens(
    corpus: Path, denoiser: Path, settings: Denoise, device: torch.device, precision: str
) -> np.ndarray:
    """The tokens (N, max_len) of an encoded corpus put right by the encoder in the folder `denoiser`.

    Made once and kept beside the corpus; of several jobs that ask, one makes it and the others wait.
    """
    loaded = Corpus.load(corpus)
    made_by = artifacts.read_json(artifacts.require(denoiser / "result.json", "pretrain"))["fingerprint"]
    how = [made_by, precision, settings.model_dump_json(exclude={"by"}), artifacts.code_version([__name__])]
    stamp = artifacts.array_hash(loaded.tokens, np.array(how))
    path = corpus / "denoised" / f"{stamp}.npy"
    with artifacts.lock(path.with_suffix(".lock")):
        if not path.exists():
            clean = Denoiser.load(denoiser, settings, device, precision)
            artifacts.write_npy(path, clean(loaded.tokens, np.asarray(loaded.lengths)))
    return np.load(path, mmap_mode="r")
