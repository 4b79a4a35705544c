"""Deep pyramid CNN (Johnson & Zhang 2017), with dilation in place of halving."""

from __future__ import annotations

from torch import Tensor, nn

from src.core.run_settings import DPCNN
from src.models.layers import Convolution, valid_positions


class DPCNNEncoder(nn.Module):
    """Embedded reports (B, T, E) -> features (B, T, size).

    The paper halves the length after each block, so that the next block reaches twice as far. Here the dilation doubles
    instead: the reach is about the same, and each token keeps one feature vector, which any pooling and the prediction
    of masked tokens can use. Each block costs as much as the one before; in the paper, half as much.
    """

    def __init__(self, settings: DPCNN):
        super().__init__()
        self.size = settings.size
        self.backward_size = 0
        self.region = Convolution(settings.embedding_size, self.size, width=3)
        self.blocks = nn.ModuleList(Block(settings, dilation=2**i) for i in range(settings.blocks))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        valid = valid_positions(lengths, x.shape[1])
        x = self.region(x, valid)
        for block in self.blocks:
            x = block(x, valid)
        return x


class Block(nn.Module):
    """Two convolutions of width 3, each after its activation, and a shortcut past both."""

    def __init__(self, settings: DPCNN, dilation: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            Convolution(settings.size, settings.size, width=3, dilation=dilation) for _ in range(2)
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        added = x
        for convolution in self.convolutions:
            added = convolution(added.relu(), valid)
        return x + self.dropout(added)
