"""A GPU that is none: tensors that say they are on it, with their memory on the CPU.

Whoever mixes them with tensors of the CPU fails as on a GPU, and each time that a program would have to wait
for the GPU (to read a number, or to learn the shape of a result) is noted. Mixed precision has the types that
CUDA's autocast gives. What it cannot show: kernels, streams, speed and memory.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchvision  # noqa: F401  # its operators are registered
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map, tree_map_only

GPU = torch.device("cuda", 0)
FLOATS = {torch.float16, torch.bfloat16, torch.float32}
PACKAGE = "/tilewise/"
aten = torch.ops.aten

READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
SHAPE_FROM_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
    torch.ops.torchvision.nms.default,
}
TAKES_BOTH = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class OnGpu(Tensor):
    """A tensor on the fake GPU."""

    elem: Tensor
    is_cuda = True
    is_cpu = is_meta = False
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, elem: Tensor) -> OnGpu:
        self: OnGpu = Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device=torch.device("meta"),  # else what C++ makes for it would look made for the CPU
        )
        self.elem = elem
        return self

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    def new_tensor(self, data: Any, **wanted: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, **{"dtype": self.dtype, "device": GPU, **wanted})

    def __getitem__(self, key: Any) -> Tensor:
        return super().__getitem__(_with_tensors(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_with_tensors(key), value)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __array__(self, *args: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In a file, and when it is read to the CPU, it is like any other."""
        return self.elem.__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.elem!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} of a tensor on the fake GPU, which is not there any more")


def _with_tensors(key: Any) -> Any:
    """An index without lists, of which C++ would make empty tensors for such a device."""
    if isinstance(key, tuple):
        return tuple(torch.tensor(each) if isinstance(each, list) else each for each in key)
    return torch.tensor(key) if isinstance(key, list) else key


class FakeGpu(TorchDispatchMode):
    """While it is entered there is one GPU.

    Attributes:
        waits: where in the package it was waited for, and for what.

    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is aten._pin_memory.default:
            return args[0]
        tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        there = [each for each in tensors if isinstance(each, OnGpu)]
        target = kwargs.get("device")
        target = torch.device(target) if target is not None else None
        if target is not None:
            target = torch.device("cpu") if target.type == "cpu" else GPU
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        self._check(func, args, tensors, there)
        self._note(func, args, kwargs, target, there)
        plain = tree_map_only(OnGpu, lambda each: each.elem, (args, kwargs))
        result = func(*plain[0], **plain[1])
        if func is aten.copy_.default:
            return args[0]
        on_gpu = target.type == "cuda" if target is not None else bool(there)
        if not on_gpu:
            return result
        wrapped = tree_map(lambda each: OnGpu(each) if isinstance(each, Tensor) else each, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped

    def _check(self, func: Any, args: Any, tensors: list[Tensor], there: list[OnGpu]) -> None:
        others = [each for each in tensors if not isinstance(each, OnGpu) and each.dim()]
        if func in INDEXING and isinstance(args[0], OnGpu):
            values = [each for each in args[2:3] if isinstance(each, Tensor) and each.dim()]
            others = [each for each in values if not isinstance(each, OnGpu)]
        if there and others and func not in TAKES_BOTH:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, cuda:0 and cpu")

    def _note(
        self, func: Any, args: Any, kwargs: Any, target: torch.device | None, there: list[OnGpu]
    ) -> None:
        waits = bool(there) and (func in READS or func in SHAPE_FROM_VALUES)
        if there and func in INDEXING:
            waits = any(each is not None and each.dtype == torch.bool for each in args[1])
            if len(args) > 2 and args[2].numel() == 1:  # then it is masked_fill
                waits = False
        if there and func is aten._to_copy.default and target is not None and target.type == "cpu":
            waits = not kwargs.get("non_blocking")
        if there and func is aten.copy_.default and not isinstance(args[0], OnGpu):
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        to_gpu = target is not None and target.type == "cuda" and not there
        if to_gpu and func is aten._to_copy.default and not kwargs.get("non_blocking"):
            waits = True  # also of torch.tensor(…, device="cuda") and new_tensor(…)
        if func is aten.copy_.default and isinstance(args[0], OnGpu) and not isinstance(args[1], OnGpu):
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking")) and bool(args[1].dim())
        if waits:
            frames = [each for each in traceback.extract_stack() if PACKAGE in each.filename]
            where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
            self.waits.append(f"{where} {func}")


class CudaAutocast(TorchFunctionMode):
    """CUDA's autocast, which differs from the CPU's, by PyTorch's own list (2.10, torch.amp, op reference).

    Args:
        device_type: of the tensors.
        dtype: what convolutions and products of matrices are computed in.
        enabled: whether anything is cast.

    """

    REDUCING = frozenset(
        """
        __matmul__ addbmm addmm addmv addr baddbmm bmm conv1d conv2d conv3d conv_transpose1d
        conv_transpose2d conv_transpose3d einsum linear matmul mm mv prelu
        scaled_dot_product_attention
        """.split()
    )
    SINGLE = frozenset(
        """
        __pow__ __rdiv__ __rpow__ __rtruediv__ acos asin binary_cross_entropy_with_logits cdist cosh
        cosine_similarity cross_entropy cumprod cumsum dist erfinv exp expm1 group_norm huber_loss
        kl_div l1_loss layer_norm log log10 log1p log2 log_softmax mse_loss nll_loss norm normalize
        pow prod reciprocal renorm roi_align rsqrt sinh smooth_l1_loss softmax softmin softplus sum
        tan
        """.split()
    )
    WIDEST = frozenset(
        """
        addcdiv addcmul atan2 bilinear cat cross dot grid_sample index_put scatter_add stack
        tensordot
        """.split()
    )

    def __init__(self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True):
        super().__init__()
        assert device_type == "cuda"
        self.dtype, self.enabled = dtype or torch.float16, enabled

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if self.enabled and name == "binary_cross_entropy":
            raise RuntimeError("unsafe to autocast: binary_cross_entropy_with_logits is safe")
        given = (args, dict(kwargs or {}))
        kinds = {each.dtype for each in tree_iter(given) if isinstance(each, Tensor)} & FLOATS
        to = None
        if name in self.REDUCING:
            to = self.dtype
        elif name in self.SINGLE or (name in self.WIDEST and len(kinds) > 1):
            to = torch.float32
        if to and self.enabled:
            given = tree_map_only(Tensor, lambda each: each.to(to) if each.dtype in FLOATS else each, given)
        with torch._C.DisableTorchFunction():  # what it calls itself is as it is, and no outer one casts
            return func(*given[0], **given[1])


class _Event:
    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def _group(lists: Any, with_indices: bool = False) -> Any:
    """PyTorch's own groups tensors by the device of their memory."""
    groups = _GROUP(lists, with_indices)
    first = next((each for each in lists[0] if each is not None), None)
    device = first.device if first is not None else None
    return {(device or key[0], key[1]): value for key, value in groups.items()}


_GROUP = _foreach_utils._group_tensors_by_device_and_dtype


class _InferenceMode:
    """Inference mode knows no views of such tensors: no gradients will do."""

    @staticmethod
    def enter(self: Any) -> None:
        self.no_grad = torch.no_grad()
        self.no_grad.__enter__()

    @staticmethod
    def leave(self: Any, *error: Any) -> None:
        self.no_grad.__exit__(*error)


@contextmanager
def fake_gpu(capability: tuple[int, int] = (8, 0)) -> Iterator[FakeGpu]:
    """One GPU of that compute capability, for as long as the context lasts."""
    gib = 2**30
    stubs: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda *_: None,
        "get_device_capability": lambda *_: capability,
        "get_device_name": lambda *_: "a fake GPU",
        "mem_get_info": lambda *_: (16 * gib, 16 * gib),
        "memory_allocated": lambda *_: gib,
        "max_memory_allocated": lambda *_: 2 * gib,
        "max_memory_reserved": lambda *_: 2 * gib,
        "reset_peak_memory_stats": lambda *_: None,
        "is_current_stream_capturing": lambda: False,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
        "Event": _Event,
    }
    with ExitStack() as stack:
        for name, stub in stubs.items():
            stack.enter_context(patch.object(torch.cuda, name, stub))
        stack.enter_context(patch("torch.autocast", CudaAutocast))
        stack.enter_context(patch.object(torch.inference_mode, "__enter__", _InferenceMode.enter))
        stack.enter_context(patch.object(torch.inference_mode, "__exit__", _InferenceMode.leave))
        for module in ("torch.optim.optimizer", "torch.nn.utils.clip_grad"):
            stack.enter_context(patch(f"{module}._group_tensors_by_device_and_dtype", _group))
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        yield stack.enter_context(FakeGpu())
