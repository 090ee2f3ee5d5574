"""Products with weights on TensorFlow, in parts that its threads work on side by side.

TensorFlow shares the work of one product among all threads as soon as that product is larger than
one and a half million multiplications. For what a recurrent step multiplies, handing out and
gathering the work takes about as long as the work. Smaller products run on one thread each, several
at a time: the same product in blocks of columns takes half the time, on one core no more than
before.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import tensorflow as tf

from cellkit.engines.shared.loop import ROWS

# Multiplications, times the bytes of a number, up to which TensorFlow runs a product on one thread
# (it goes by an estimate of the cycles, of which wider numbers take more); and those of a block.
_ALONE = 6 << 20
_BLOCK = 4 << 20
# Numbers in the largest result that is worth joining: each part's is copied once.
_JOINED = 1 << 15
# Fewer columns than this leave a thread too little to do.
_NARROWEST = 32


def widths(shape: Any, dtype: tf.DType, rows: int | None) -> list[int]:
    """Return the widths of the blocks into which `cut` cuts a kernel.

    Args:
        shape: The kernel's, `(n, m)`.
        dtype: The kernel's.
        rows: How many rows it will be multiplied with at a time, None if that is unknown.
    """
    height, width = shape
    rows = rows or ROWS
    if dtype not in (tf.float32, tf.float64) or rows * width > _JOINED or _has_gpu():
        return [width]
    work = rows * height * width * dtype.size
    if work <= _ALONE:
        return [width]
    size = max(_NARROWEST, math.ceil(width / math.ceil(work / _BLOCK)))
    return [min(size, width - i) for i in range(0, width, size)]


def cut(kernel: Any, rows: int | None) -> list[Any]:
    """Return a kernel in blocks of columns, one if more do not pay; done once, before a loop."""
    sizes = widths(kernel.shape, kernel.dtype, rows)
    return list(tf.split(kernel, sizes, axis=1)) if len(sizes) > 1 else [kernel]


def times(x: Any, parts: list[Any]) -> Any:
    """Return ``x @ kernel``, given the kernel as `cut` returns it."""
    products = [x @ part for part in parts]
    return products[0] if len(parts) == 1 else tf.concat(products, axis=-1)


@functools.cache
def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))
