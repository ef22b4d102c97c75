"""A guard that refuses operators for which the host waits for a device, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::unique_consecutive",
    "aten::_unique2",
}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_COPIES = {"aten::_to_copy", "aten::copy_"}


class NoHostReads(TorchDispatchMode):
    """Raises AssertionError where the host would read a tensor, a shape would depend on values, or
    a tensor would go from one device to another.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        assert name not in _READS, f"{name} makes the host wait"
        if name in _INDEXED:
            is_bool = [i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]]
            assert not any(is_bool), f"{name} by a mask makes the host wait"
        if name in _COPIES:
            devices = {arg.device for arg in args if isinstance(arg, Tensor)}
            if kwargs.get("device") is not None:
                devices.add(torch.device(kwargs["device"]))
            assert len(devices) == 1, f"{name} goes from device to device: {devices}"
        return func(*args, **kwargs)
