"""Regimes: objectives that learn from several domains (train.regime), each a step in place of Classification's.

groupdro: Sagawa, Koh, Hashimoto and Liang (2020), "Distributionally robust neural networks for group shifts", algorithm
1. dann: Ganin et al. (2016), "Domain-adversarial training of neural networks". coral: Sun and Saenko (2016), "Deep
CORAL", with the means of the features beside their covariances, as Gulrajani and Lopez-Paz (2021), "In search of lost
domain generalization". maml and fomaml: Finn, Abbeel and Levine (2017), "Model-agnostic meta-learning". reptile:
Nichol, Achiam and Schulman (2018), "On first-order meta-learning algorithms".

A batch is of all domains, in their proportions. Those of the rows that are learned from with labels are the domains
with labels; a file without labels is one more domain of the features alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from src.core.errors import UserError
from src.core.language import _
from src.core.run_settings import Regime
from src.training.batching import Batch
from src.training.classification import Classification
from src.training.devices import autocast
from src.training.epoch_reader import Wanted

LEAST = 2
"""Rows of a domain in a batch below which a regime learns nothing of it from that batch: a covariance, and a support
row beside a query row, need two."""
RAMP = 10.0
"""Rate at which the weight of DANN's adversary rises with the share of training that is done (Ganin et al. 2016)."""
HIDDEN = 64
"""Hidden units of DANN's adversary."""


class DomainObjective(Classification):
    """Classification that sees domains. `regime` holds its settings."""

    def __init__(self, *args: Any, regime: Regime, **kwargs: Any):
        """Raises UserError where the training rows are of one domain alone."""
        super().__init__(*args, **kwargs)
        self.regime = regime
        self.domains = np.unique(self._train.domain)
        """Numbers of the domains of the training rows."""
        self._numbers = torch.from_numpy(self.domains.astype(np.int64)).to(self.device)
        if len(self.domains) < 2:
            told = _(
                "train.regime={regime} learns from several domains, and the training rows are of one. Another "
                "domains.by or folds.scheme may give more, or train.regime=pooled"
            )
            raise UserError(told.format(regime=self.settings.regime))

    def places(self, batch: Batch) -> Tensor:
        """Place (B,) of the domain of each row of a batch in `domains`."""
        return torch.searchsorted(self._numbers, batch.domain)

    def task_loss(self, logits: Tensor, wanted: Wanted, rows: Tensor | slice = slice(None)) -> Tensor:
        """Loss of the logits (n, n_labels) of some `rows` of a batch."""
        return self._of_labels(logits.float(), wanted.targets[rows], wanted.weights[rows])

    def computed(self, compute: Callable[..., Any], *args: Any) -> Any:
        with autocast(self._precision, self.device):
            return compute(*args)


class GroupDRO(DomainObjective):
    """Weighted sum of the domains' losses; a domain's weight grows by exp(step * loss) with each batch."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.weights = torch.full((len(self.domains),), 1 / len(self.domains), device=self.device)

    def loss(self, compute: Callable[..., Tensor], batch: Batch, wanted: Wanted) -> Tensor:
        logits = self.computed(compute, batch.inputs, batch.lengths)
        places = self.places(batch)
        present = places.unique()
        of_domains = [places == place for place in present]
        losses = torch.stack([self.task_loss(logits[rows], wanted, rows) for rows in of_domains])
        with torch.no_grad():
            self.weights[present] *= (self.regime.step * losses).exp()
            self.weights /= self.weights.sum()
            shares = self.weights[present] / self.weights[present].sum()
        return (shares * losses).sum()

    def state(self) -> dict[str, Tensor]:
        return {"weights": self.weights}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.weights = state["weights"].to(self.device)


class DomainAdversarial(DomainObjective):
    """Loss of the labels, and of an adversary that tells the domains apart by the features. The gradient of the
    adversary's loss is reversed on its way into the model, times a weight that rises from 0 to regime.weight."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        with torch.random.fork_rng(devices=[]):  # the model's dropout is drawn as without an adversary
            torch.manual_seed(0)
            size = self.model.head.in_features
            layers = nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(self.domains))
            self.adversary = nn.Sequential(*layers).to(self.device)
        self._steps = torch.zeros((), dtype=torch.int64)

    @property
    def ramp(self) -> float:
        """Weight of the reversed gradient at this step, between 0 and regime.weight."""
        done = int(self._steps) / max(1, self.settings.epochs * self.n_batches)
        return self.regime.weight * (2 / (1 + math.exp(-RAMP * done)) - 1)

    def loss(self, compute: Callable[..., Tensor], batch: Batch, wanted: Wanted) -> Tensor:
        pooled, logits = self.computed(self.model.with_pooled, batch.inputs, batch.lengths)
        told = self.adversary(reverse(pooled.float(), self.ramp))
        self._steps += 1
        return self.task_loss(logits, wanted) + nn.functional.cross_entropy(told, self.places(batch))

    def make_optimizer(self) -> torch.optim.Optimizer:
        optimizer = super().make_optimizer()
        optimizer.add_param_group({"params": list(self.adversary.parameters()), "share": 1.0})
        return optimizer

    def state(self) -> dict[str, Tensor]:
        return {"steps": self._steps, **{f"adversary.{k}": v for k, v in self.adversary.state_dict().items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._steps = state["steps"]
        start = "adversary."
        self.adversary.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: float) -> Tensor:
        context.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.weight * gradient, None


def reverse(x: Tensor, weight: float) -> Tensor:
    """Returns x; its gradient is that of the result times -weight."""
    return _Reverse.apply(x, weight)


class Coral(DomainObjective):
    """Loss of the labels, and the mean over pairs of domains of the distance between means and covariances of their
    features, times regime.weight."""

    def loss(self, compute: Callable[..., Tensor], batch: Batch, wanted: Wanted) -> Tensor:
        pooled, logits = self.computed(self.model.with_pooled, batch.inputs, batch.lengths)
        of_domains = [pooled[batch.domain == domain].float() for domain in batch.domain.unique()]
        pairs = list(itertools.combinations([one for one in of_domains if len(one) >= LEAST], 2))
        loss = self.task_loss(logits, wanted)
        return loss + self.regime.weight * sum(coral(*pair) for pair in pairs) / len(pairs) if pairs else loss


def coral(left: Tensor, right: Tensor) -> Tensor:
    """Mean squared difference of the means and of the covariances of two sets of features, (N, F) and (M, F)."""
    mean = (left.mean(dim=0) - right.mean(dim=0)).square().mean()
    return mean + (torch.cov(left.T) - torch.cov(right.T)).square().mean()


class Meta(DomainObjective):
    """MAML, its first-order form, and Reptile. A domain of a batch is a task: its rows at even places are the support,
    the others the query. Validation and prediction are of the weights from which domains are learned, as they are."""

    def step(self, batch: Batch, wanted: Wanted) -> Tensor:
        tasks = [places for places in self._tasks(batch, wanted) if len(places) >= LEAST]
        if not tasks:
            return super().step(batch, wanted)
        meta_step = self._reptile if self.settings.regime == "reptile" else self._maml
        # The fused kernels of attention have no second derivative.
        second = self.settings.regime == "maml"
        with sdpa_kernel(SDPBackend.MATH) if second else torch.enable_grad():
            losses = [meta_step(batch, wanted, places, 1 / len(tasks)) for places in tasks]
        return torch.stack(losses).mean()

    def _tasks(self, batch: Batch, wanted: Wanted) -> list[Tensor]:
        """Places in the batch of each domain's rows that have a label."""
        is_known = ~wanted.targets.isnan().all(dim=1)
        return [torch.where((batch.domain == domain) & is_known)[0] for domain in batch.domain.unique()]

    def _loss_at(self, weights: Mapping[str, Tensor], batch: Batch, wanted: Wanted, places: Tensor) -> Tensor:
        """Loss of some rows of a batch, of the model with other weights."""
        inputs = {name: tensor[places] for name, tensor in batch.inputs.items()}
        logits = self.computed(functional_call, self.model, dict(weights), (inputs, batch.lengths[places]))
        return self.task_loss(logits, wanted, places)

    def _inner(self, weights: dict[str, Tensor], loss: Tensor, second: bool) -> dict[str, Tensor]:
        """Takes an inner step: gradient descent by regime.inner_rate. With `second` it can be derived, too."""
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=second, allow_unused=True)
        rate = self.regime.inner_rate
        moved = zip(weights.items(), gradients, strict=True)
        return {name: weight if slope is None else weight - rate * slope for (name, weight), slope in moved}

    def _maml(self, batch: Batch, wanted: Wanted, places: Tensor, share: float) -> Tensor:
        """Adds the gradient of a domain's query loss after the inner steps on its support, times its share; returns
        that loss."""
        weights = dict(self.model.named_parameters())
        for _step in range(self.regime.inner_steps):
            loss = self._loss_at(weights, batch, wanted, places[::2])
            weights = self._inner(weights, loss, self.settings.regime == "maml")
        loss = self._loss_at(weights, batch, wanted, places[1::2])
        (share * loss).backward()
        return loss.detach()

    def _reptile(self, batch: Batch, wanted: Wanted, places: Tensor, share: float) -> Tensor:
        """Adds the way from the weights after a domain's inner steps back to those before, over the inner rate and
        times the domain's share, as a gradient; returns the loss before. Each inner step is on other rows."""
        started = {name: weight.detach() for name, weight in self.model.named_parameters()}
        weights, losses = started, []
        n_steps = min(self.regime.inner_steps, len(places))
        for i in range(n_steps):
            weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            losses.append(self._loss_at(weights, batch, wanted, places[i::n_steps]))
            weights = self._inner(weights, losses[-1], second=False)
        for name, weight in self.model.named_parameters():
            way = share / self.regime.inner_rate * (started[name] - weights[name].detach())
            weight.grad = way if weight.grad is None else weight.grad + way
        return losses[0].detach()


OBJECTIVES: dict[str, type[DomainObjective]] = {
    "groupdro": GroupDRO,
    "dann": DomainAdversarial,
    "coral": Coral,
    "maml": Meta,
    "fomaml": Meta,
    "reptile": Meta,
}
"""Objective of each regime that has one of its own."""
