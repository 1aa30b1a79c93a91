"""Tensors over the ring: everything but writing. Why and how: docs/adr/0001-in-place-writes.md."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from types import FrameType, FunctionType
from typing import Any, Final

import numpy as np
import torch
from torch._ops import OpOverload, OpOverloadPacket

from ringfeed.errors import InPlaceWriteError

_AUGMENTED: Final = frozenset(
    f"__i{name}__"
    for name in (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "and",
        "or",
        "xor",
        "lshift",
        "rshift",
        "div",
    )
)
_HARMLESS: Final = frozenset({"requires_grad_", "retains_grad_"})
"""They end like in-place operations and change no element."""


_BASE: Final = inspect.getattr_static(torch.Tensor, "_base")


class RingTensor(torch.Tensor):
    """A tensor whose memory is the ring's, which other trainers read.

    It behaves as any tensor. What shares its memory (views, slices, permutations, ``numpy()``) is guarded as well; what
    has memory of its own (``clone()``, ``float()``, ``to("cuda")``, a sum) is a plain tensor. An operation that would
    write into the ring raises `InPlaceWriteError` before it starts. What takes it out of this class and keeps its
    memory (``as_subclass``, ``torch.Tensor(batch)``, DLPack, C++ extensions) is not guarded, and writes into a private
    copy: this batch changes, and no other.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # as torch declares it
        """Refuse what writes; guard what shares memory."""
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # Dynamo traces what stands here, so let it find no more than the operation
            with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
                return func(*args, **kwargs)
        if torch._C._get_tracing_state() is not None:  # noqa: SLF001
            with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
                return _call_from(sys._getframe(1), func, args, kwargs)  # noqa: SLF001
        if _writes(func, args, kwargs):
            name = getattr(func, "__name__", str(func))
            raise InPlaceWriteError(
                f"{name} would write into a batch of the ring, which other trainers read as well. Write to a copy: "
                f"batch.clone(), an operation that is not in-place, or RingDataset(..., copy=True)."
            )
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  # the documented way
            result = func(*args, **kwargs)
            if getattr(func, "__self__", None) is _BASE:
                return result  # torch.compile follows _base to its end, which a guarded base would not have
            if torch._C._len_torch_dispatch_stack():  # noqa: SLF001
                return result  # make_fx and its kind know their tensors by identity
            return _guarded(result, args)

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401  # as torch declares it
        """Travel as a plain tensor: the other side has memory of its own."""
        return self.clone().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        """A plain copy."""
        return self.clone()


def _call_from(frame: FrameType, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Call a function as if from the line of code where another frame stands.

    torch.jit.trace compares two runs, with the line of each operation, and only the first of them is given the batch.
    """
    code = _call.__code__.replace(co_filename=frame.f_code.co_filename, co_firstlineno=frame.f_lineno - 1)
    return FunctionType(code, {})(func, args, kwargs)


def _call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    return func(*args, **kwargs)


def over_ring(array: np.ndarray[Any, Any], axes: tuple[int, ...] | None) -> torch.Tensor:
    """A guarded tensor over a read-only array of the ring; nothing is copied, and it keeps the array's lease.

    The array becomes the tensor's own, and must not be used any more.

    Args:
        axes: transposed to these, by NumPy, for which it is a tenth of the work that it is for a guarded tensor.
    """
    # torch warns of read-only arrays; the mapping is read-only all the same
    if isinstance(array.base, np.ndarray):  # a pair of a native batch
        array.base.setflags(write=True)
    array.setflags(write=True)
    return torch.from_numpy(array if axes is None else array.transpose(axes)).as_subclass(RingTensor)


def plain(array: np.ndarray[Any, Any], axes: tuple[int, ...] | None) -> torch.Tensor:
    """A tensor over an array that may be written into, transposed to ``axes``."""
    return torch.from_numpy(array if axes is None else array.transpose(axes))


def _writes(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    out = kwargs.get("out")
    if out is not None and _over_ring(out):
        return True
    if isinstance(func, OpOverload | OpOverloadPacket):
        overloads = [func] if isinstance(func, OpOverload) else [getattr(func, each) for each in func.overloads()]  # type: ignore[no-untyped-call]
        return any(_written(overload, args, kwargs) for overload in overloads)
    name = getattr(func, "__name__", "")
    if name == "__setitem__" or name in _AUGMENTED or name == "__set__":
        return bool(args) and _over_ring(args[0])
    if name.endswith("_") and not name.endswith("__") and name not in _HARMLESS:
        return bool(args) and _over_ring(args[0])
    # torch.nn.functional has the same operations with a flag
    if isinstance(func, FunctionType) and "inplace" in inspect.signature(func).parameters:
        bound = inspect.signature(func).bind(*args, **kwargs)
        return bool(bound.arguments.get("inplace")) and bool(args) and _over_ring(args[0])
    return False


def _written(operator: OpOverload[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator's schema says that it writes into an argument that is over the ring."""
    for place, argument in enumerate(operator._schema.arguments):  # noqa: SLF001  # the documented way
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            if _over_ring(value):
                return True
    return False


def _over_ring(value: Any) -> bool:  # noqa: ANN401  # a tensor, or a list of them
    if isinstance(value, list | tuple):
        return any(_over_ring(item) for item in value)
    return isinstance(value, RingTensor)


def _guarded(result: Any, args: tuple[Any, ...]) -> Any:  # noqa: ANN401  # whatever an operation returns
    if isinstance(result, torch.Tensor):
        if isinstance(result, RingTensor) or not _shares_memory(result, args):
            return result
        return result.as_subclass(RingTensor)
    if isinstance(result, np.ndarray):
        if _shares_array(result, args):
            result.setflags(write=False)
        return result
    if type(result) in (list, tuple):
        return type(result)(_guarded(item, args) for item in result)
    return result


def _ring_tensors(args: Iterable[Any]) -> Iterable[RingTensor]:
    for arg in args:
        if isinstance(arg, RingTensor):
            yield arg
        elif isinstance(arg, list | tuple):
            yield from _ring_tensors(arg)


def _shares_memory(result: torch.Tensor, args: tuple[Any, ...]) -> bool:
    if result.device.type != "cpu" or result.layout is not torch.strided:
        return False
    try:
        memory = result.untyped_storage().data_ptr()
    except RuntimeError:  # a wrapper of torch.func's has none
        return False
    return any(memory == tensor.untyped_storage().data_ptr() for tensor in _ring_tensors(args))


def _shares_array(result: np.ndarray[Any, Any], args: tuple[Any, ...]) -> bool:
    first = result.__array_interface__["data"][0]
    for tensor in _ring_tensors(args):
        storage = tensor.untyped_storage()
        if storage.data_ptr() <= first < storage.data_ptr() + storage.nbytes():
            return True
    return False
