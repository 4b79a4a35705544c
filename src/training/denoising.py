"""Denoiser: corrects words that a pretrained encoder takes for noise.

The noise model is known: a word is replaced by any other with equal probability, independent of its neighbours. Bayes'
rule then gives, from the language model's prediction at a place, the probability that the shown word is noise. Models
read less noise than the test files hold, and the gap between train and test narrows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.core import array_files, locks, storage, versions
from src.core.run_settings import Denoise, Pretrain, Run
from src.data.corpus import BLOCK, N_SPECIAL, PAD, Corpus, to_indices, to_words
from src.data.inputs import InputShape
from src.models.classifier import build_model
from src.models.language import MaskedLanguageModel
from src.models.layers import mixture
from src.training import checkpoints
from src.training.batching import WIDTHS, length_batches
from src.training.devices import autocast

BATCH_SIZE = 128
MIXED = 4
"""Words in a mixture."""
LARGE = 80.0
"""Log odds beyond which float32 has no numbers."""


class Denoiser:
    """Padded tokens (N, max_len) and lengths (N,) -> denoised tokens, one array for each view.

    raw: the tokens as they are. hard: tokens (N, max_len), in which a word is replaced where it is wrong with a
    probability above settings.confidence, by the likeliest one there if that is more likely than not. soft: mixtures
    (N, max_len, MIXED) int32 of the likeliest words, see layers.mixture.
    """

    def __init__(
        self, model: MaskedLanguageModel, pretrain: Pretrain, settings: Denoise, device: torch.device, precision: str
    ):
        self.model, self.settings, self._device, self._precision = model.eval(), settings, device, precision
        # In pretraining, replaced words were as common as settings.replaced made them. Here they are as rare as the
        # prior says, so the odds of the shown word are higher by the ratio of both.
        taught = (1 - pretrain.masked - pretrain.replaced) / pretrain.replaced
        self._lift = math.log((1 - settings.prior) / settings.prior) - math.log(taught)

    @classmethod
    def load(cls, folder: Path, settings: Denoise, device: torch.device, precision: str) -> Denoiser:
        """Loads the encoder in the folder of a PretrainJob."""
        result = storage.read_json(folder / "result.json", "pretrain")
        run = Run.model_validate(result["run"])
        model = MaskedLanguageModel(build_model(run.model, InputShape.from_json(result["inputs"]), 1))
        checkpoints.load_weights(folder / "last.safetensors", model, result)
        return cls(model.to(device), run.pretrain, settings, device, precision)

    def __call__(self, tokens: np.ndarray, lengths: np.ndarray, views: Sequence[str]) -> list[np.ndarray]:
        denoised = [view for view in views if view != "raw"]
        found = {view: self._empty(view, tokens) for view in denoised}
        with torch.inference_mode(), autocast(self._precision, self._device):
            for start in range(0, len(tokens) if denoised else 0, BLOCK):
                block = slice(start, start + BLOCK)
                inputs = {"tokens": tokens[block]}
                for batch in length_batches(inputs, lengths[block], BATCH_SIZE, self._device, WIDTHS):
                    rows = start + batch.rows
                    for view, array in self._seen(batch.inputs["tokens"], batch.lengths, denoised).items():
                        found[view][rows, : array.shape[1]] = array.cpu().numpy()
        return [tokens if view == "raw" else found[view] for view in views]

    def _empty(self, view: str, tokens: np.ndarray) -> np.ndarray:
        if view == "hard":
            return np.array(tokens)
        return np.full((*tokens.shape, MIXED), PAD, dtype=np.int32)  # behind a report nothing has a share

    def _seen(self, tokens: Tensor, lengths: Tensor, views: Sequence[str]) -> dict[str, Tensor]:
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        places = (inside & (tokens >= N_SPECIAL)).flatten().nonzero()[:, 0]
        logits = self.model({"tokens": tokens}, lengths, places)[0]  # (K, V)
        found = {}
        chosen = self.choose(logits, to_words(tokens.flatten()[places].long()), views)
        if "hard" in views:
            wrong, word = chosen["hard"]
            changed = tokens.flatten().clone()
            changed[places[wrong]] = to_indices(word).to(tokens.dtype)[wrong]
            found["hard"] = changed.view_as(tokens)
        if "soft" in views:
            word, shares = chosen["soft"]
            mixed = torch.zeros(tokens.numel(), MIXED, dtype=torch.int32, device=tokens.device)
            mixed[:, 0] = torch.where(inside.flatten(), mixture(tokens.flatten(), torch.ones_like(tokens.flatten())), 0)
            mixed[places] = mixture(to_indices(word), shares)
            found["soft"] = mixed.view(*tokens.shape, MIXED)
        return found

    def choose(self, logits: Tensor, words: Tensor, views: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Judges K shown `words` (K,) by the logits (K, V) of the language model.

        hard: whether each is wrong (K,) and the likeliest word in its place (K,). soft: the likeliest words and their
        shares, (K, MIXED) each.
        """
        # Odds relative to the shown word, the only one whose odds change: no second (K, V) array is needed.
        likely, word = logits.topk(MIXED if "soft" in views else 1, dim=1)
        shown = logits.gather(1, words[:, None])[:, 0].float()
        others = (logits.logsumexp(dim=1).float() - shown).clamp(0, LARGE).expm1()
        lift = math.exp(self._lift)
        likely = (likely.float() - shown[:, None]).clamp_max(LARGE).exp()
        found = {}
        if "hard" in views:
            wrong = others / (others + lift) > self.settings.confidence
            found["hard"] = wrong & (likely[:, 0] / (others + lift) > 0.5), word[:, 0]
        if "soft" in views:
            # The word that is shown is among the likeliest, or takes the place of the last of them.
            named = (word == words[:, None]).any(dim=1)
            word = torch.cat([word[:, :-1], torch.where(named, word[:, -1], words)[:, None]], dim=1)
            likely = torch.where(word == words[:, None], lift, likely)
            found["soft"] = word, likely / likely.sum(dim=1, keepdim=True)
        return found


def denoised_views(
    corpus: Path, denoiser: Path, settings: Denoise, device: torch.device, precision: str
) -> list[dict[str, np.ndarray]]:
    """Denoises an encoded corpus by the encoder in the folder `denoiser`: inputs for each of settings.views.

    The arrays are made once and kept beside the corpus; if several jobs need them, one makes them and the others wait.
    """
    loaded = Corpus.load(corpus)
    made_by = storage.read_json(denoiser / "result.json", "pretrain")["fingerprint"]
    found_by = settings.model_dump_json(include={"prior", "confidence"})
    how = [made_by, precision, found_by, f"{versions.DENOISE} {torch.__version__} {versions.computed_on(device.type)}"]
    stamp = storage.array_hash(loaded.tokens, np.array(how))
    name = f"{made_by}.{stamp}"  # the encoder's fingerprint, by which ./run.sh clean finds copies without encoder
    paths = {view: corpus / "denoised" / f"{name}.{view}.npy" for view in settings.views if view != "raw"}
    with locks.lock(corpus / "denoised" / f"{name}.lock"):
        missing = [view for view, path in paths.items() if not array_files.is_whole(path)]
        if missing:
            clean = Denoiser.load(denoiser, settings, device, precision)
            made = clean(loaded.tokens, np.asarray(loaded.lengths), missing)
            for view, array in zip(missing, made, strict=True):
                array_files.write_npy(paths[view], array)
    return [
        loaded.inputs if view == "raw" else {"tokens": array_files.read_npy(paths[view], mapped=True)}
        for view in settings.views
    ]
