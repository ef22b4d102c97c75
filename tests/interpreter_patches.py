"""Triton's interpreter without work of which nothing comes; what kernels compute stays the same.

* To run a kernel it replaces every function of `triton.language` by one of its own. It does so
  again whenever the kernel calls another `@triton.jit` function, where nothing is left to replace.
* It computes sums and products of integers a second time, in 64 bits, for an assertion of overflow
  that it then leaves out, as that is one of Triton's debug mode.
* It makes a table of all dtypes whenever it looks one up.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from triton import language
from triton.runtime import interpreter

_interpreter: Any = interpreter  # its private names carry no types
_replace, _numpy_dtype = _interpreter._patch_lang, _interpreter._get_np_dtype
_scalar_dtype = functools.cache(_numpy_dtype)


class _Nothing:
    """What a helper has replaced, and the launch puts back."""

    def restore(self) -> None:
        pass


class _OncePerLaunch:
    """Replaces the language as the interpreter does, for the first function of a launch."""

    def __init__(self) -> None:
        self._replaced: set[int] = set()

    def __call__(self, function: Any) -> Any:
        languages = {id(language), id(language.core)}
        modules = languages & set(map(id, function.__globals__.values()))
        if modules and modules <= self._replaced:
            return _Nothing()
        scope = _replace(function)
        self._replaced |= modules
        put_back = scope.restore

        def restore() -> None:  # the launch calls it, a helper never does
            self._replaced.clear()
            put_back()

        scope.restore = restore
        return scope


def _dtype(dtype: Any) -> Any:
    """numpy's dtype of one of Triton's."""
    element = dtype.element_ty if isinstance(dtype, language.block_type) else dtype
    if isinstance(element, language.pointer_type):
        return _numpy_dtype(element)
    return _scalar_dtype(element)


def install() -> None:
    """For this process."""
    _interpreter._patch_lang = _OncePerLaunch()
    _interpreter._get_np_dtype = _dtype
    builder = _interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
