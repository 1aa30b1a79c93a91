"""What a PyTorch trainer imports. The one module of `ringfeed`, with those it names, that imports torch."""

from __future__ import annotations

from ringfeed.dataloaders import get_async_dataloaders
from ringfeed.dataset import RingDataset
from ringfeed.guard import RingTensor
from ringfeed.loader import RingLoader

__all__ = ["RingDataset", "RingLoader", "RingTensor", "get_async_dataloaders"]
