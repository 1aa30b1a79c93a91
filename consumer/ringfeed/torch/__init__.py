"""What a PyTorch trainer imports. The one module of `ringfeed`, with those it names, that imports torch."""

from __future__ import annotations

from ringfeed.torch.dataloaders import get_async_dataloaders
from ringfeed.torch.dataset import RingDataset
from ringfeed.torch.loader import RingLoader
from ringfeed.torch.tensor import RingTensor

__all__ = ["RingDataset", "RingLoader", "RingTensor", "get_async_dataloaders"]
