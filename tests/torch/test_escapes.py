"""What drops the guard and keeps a batch's memory: it writes into a private copy, and whoever traces code is served."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ring_fixtures import served_ring, turning

import ringfeed
from ringfeed.torch import RingDataset, RingTensor

BATCH = 4


class Mask(torch.Tensor):
    """As those of torchvision (`tv_tensors`) and MONAI (`MetaTensor`), which are made by `as_subclass`."""


def zeros_through_storage(tensor: torch.Tensor) -> None:
    torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage(), 0, (tensor.nbytes,)).zero_()


ESCAPES: dict[str, Callable[[torch.Tensor], Any]] = {
    "subclass": lambda t: t.as_subclass(Mask).zero_(),
    "mask": lambda t: t.as_subclass(Mask).__setitem__(t.as_subclass(Mask) >= 0, 0),
    "plain class": lambda t: t.as_subclass(torch.Tensor).zero_(),
    "view of a subclass": lambda t: t.as_subclass(Mask).permute(0, 2, 3, 1)[1:].zero_(),
    "constructor": lambda t: torch.Tensor(t).zero_(),
    "make_subclass": lambda t: torch.Tensor._make_subclass(Mask, t).zero_(),
    "numpy and back": lambda t: torch.from_numpy(t.numpy()).zero_(),
    "array and back": lambda t: torch.from_numpy(np.asarray(t)).zero_(),
    "dlpack": lambda t: torch.from_dlpack(t).zero_(),
    "capsule": lambda t: torch.from_dlpack(torch.utils.dlpack.to_dlpack(t)).zero_(),
    "dlpack to numpy": lambda t: np.from_dlpack(t).fill(0),
    "storage": lambda t: t.untyped_storage().fill_(0),
    "set": zeros_through_storage,
    "pointer": lambda t: ctypes.memset(t.data_ptr(), 0, t.nbytes),
    "one byte": lambda t: ctypes.memset(t.data_ptr() + t.nbytes - 1, 0, 1),
}


@pytest.fixture
def ring() -> Iterator[str]:
    with served_ring(slots=16, epoch_length=50) as served, turning(served):
        yield served.name


def batches(name: str, **options: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch after the other."""
    dataset = RingDataset(name, batch_size=BATCH, **options)
    try:
        while True:
            yield from dataset
    finally:
        dataset.close()


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("way", ESCAPES)
def test_a_write_past_the_guard_stays_private(ring, way):
    mine, others = batches(ring), batches(ring, copy=True)
    for step, (batch, expected) in enumerate(zip(mine, others, strict=True)):
        for pixels, right in zip(batch, expected, strict=True):
            assert type(pixels) is RingTensor
            assert torch.equal(pixels, right), f"batch {step} shows what was written into an earlier one"
        if step == 24:
            break
        ESCAPES[way](batch[0])
        assert not torch.equal(batch[0], expected[0]), "an alias shows what was written through another one"
        assert torch.equal(batch[1], expected[1])
    mine.close()
    others.close()


@torch.library.custom_op("ringfeed_tests::brighten", mutates_args=("image",))
def brighten(by: int, image: torch.Tensor) -> None:
    image.add_(by)


@pytest.mark.parametrize(
    "write",
    [
        lambda t: brighten(1, t),
        lambda t: torch.ops.ringfeed_tests.brighten(1, image=t),
        lambda t: torch.ops.aten.fill_.Scalar(t, 1),
        lambda t: torch.ops.aten.add.out(t, t, out=t),
    ],
)
def test_a_custom_operator_that_writes_is_refused(ring, write):
    for image, _ in batches(ring):
        before = image.clone()
        with pytest.raises(ringfeed.InPlaceWriteError):
            write(image)
        assert torch.equal(image, before)
        break


class Model(torch.nn.Module):
    """Begins with views of the batch, as models do that take channels apart or flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 2, 1)
        self.norm = torch.nn.BatchNorm2d(2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = image[:, :1].contiguous().view(image.shape[0], -1).float().mean(1)
        scaled = torch.nn.functional.interpolate(image.permute(0, 1, 2, 3).float() / 255, scale_factor=2.0)
        return torch.relu_(self.norm(self.convolution(scaled))).flatten(1).mean(1) + first


def exported(model: Model, image: torch.Tensor, *, strict: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.export.export(model, (image,), strict=strict).module()


TRACERS: dict[str, Callable[[Model, torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "jit.trace": torch.jit.trace,
    "jit.script": lambda model, _image: torch.jit.script(model),
    "export": lambda model, image: exported(model, image, strict=False),
    "strict export": lambda model, image: exported(model, image, strict=True),
    "compile": lambda model, _image: torch.compile(model, backend="eager", fullgraph=True),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tracer", TRACERS)
def test_a_model_is_traced_over_a_raw_batch(ring, tracer):
    """The traced model takes batches and plain tensors, and gives what the model gives."""
    torch.manual_seed(0)
    model = Model().eval()
    for step, (image, _) in enumerate(batches(ring)):
        if step == 0:
            traced = TRACERS[tracer](model, image)
        for one in (image, image.clone()):
            assert torch.allclose(traced(one), model(one))
        if step == 2:
            break


@pytest.mark.parametrize(
    "transform",
    [
        lambda batch: torch.func.grad(lambda weight: (weight * batch).sum())(torch.ones(())),
        lambda batch: torch.vmap(lambda weight: weight * batch[0])(torch.ones(2)),
        torch.vmap(lambda image: image.permute(1, 2, 0) + 1),
        lambda batch: torch.func.jacrev(lambda weight: (batch * weight).mean((1, 2, 3)))(torch.ones(())),
    ],
    ids=["grad", "vmap beside", "vmap over", "jacrev"],
)
def test_transforms_of_functions_take_a_raw_batch(ring, transform):
    image, _ = next(iter(RingDataset(ring, batch_size=BATCH)))
    assert torch.equal(transform(image), transform(image.clone()))
