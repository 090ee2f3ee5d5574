"""Products with weights on TensorFlow, in parts that its threads work on side by side.

TensorFlow shares the work of one product among all threads as soon as that product is larger than
one and a half million multiplications. For what a recurrent step multiplies, handing out and
gathering the work takes about as long as the work. Smaller products run on one thread each, several
at a time: the same product in blocks of columns takes half the time.

That is so for TensorFlow's own products, and with several threads. oneDNN, which TensorFlow turns
on by itself on processors with certain instructions, shares the work better: there blocks cost
time.
"""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from cellkit.engines.shared.loop import ROWS
from cellkit.typing import Tensor

# Multiplications, times the bytes of a number, up to which TensorFlow runs a product on one thread
# (it goes by an estimate of the cycles, of which wider numbers take more); and those of a block.
_ALONE = 6 << 20
_BLOCK = 4 << 20
# Numbers in the largest result that is worth joining: each part's is copied once.
_JOINED = 1 << 15
# Fewer columns than this leave a thread too little to do.
_NARROWEST = 32

CPU = Path("/proc/cpuinfo")
# Instructions of processors on which TensorFlow turns oneDNN on by itself.
_FLAGS = frozenset(("avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"))


def widths(shape: Any, dtype: tf.DType, rows: int | None) -> list[int]:
    """Return the widths of the blocks into which `cut` cuts a kernel.

    Args:
        shape: The kernel's, `(n, m)`.
        dtype: The kernel's.
        rows: The number of rows that it is multiplied with at a time, None if unknown.
    """
    height, width = shape
    rows = rows or ROWS
    if dtype not in (tf.float32, tf.float64) or rows * width > _JOINED or not blocks_pay():
        return [width]
    work = rows * height * width * dtype.size
    if work <= _ALONE:
        return [width]
    size = max(_NARROWEST, math.ceil(width / math.ceil(work / _BLOCK)))
    return [min(size, width - i) for i in range(0, width, size)]


def cut(kernel: Tensor, rows: int | None) -> list[Any]:
    """Return a kernel in blocks of columns, one if more do not pay; done once, before a loop."""
    sizes = widths(kernel.shape, kernel.dtype, rows)
    return list(tf.split(kernel, sizes, axis=1)) if len(sizes) > 1 else [kernel]


def times(x: Tensor, parts: list[Any]) -> Any:
    """Return ``x @ kernel``, given the kernel as `cut` returns it."""
    products = [x @ part for part in parts]
    return products[0] if len(parts) == 1 else tf.concat(products, axis=-1)


@functools.cache
def blocks_pay() -> bool:
    """Tell whether products in blocks are faster in this process: asked of the machine, once."""
    return threads() > 1 and not has_onednn() and not tf.config.list_physical_devices("GPU")


def threads() -> int:
    """Return how many threads TensorFlow shares the work of one product among."""
    asked = tf.config.threading.get_intra_op_parallelism_threads()
    asked = asked or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    return int(asked or os.cpu_count() or 1)


def has_onednn() -> bool:
    """Tell whether TensorFlow uses oneDNN, by the rule that it goes by itself."""
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").strip().lower()
    if asked:
        return asked in ("1", "true")
    try:
        text = CPU.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not on Linux; TensorFlow has oneDNN elsewhere only where it is asked for
        return False
    return not _FLAGS.isdisjoint(text.split())
