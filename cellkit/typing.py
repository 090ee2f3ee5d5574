"""Names for the types of tensors and structures, which no backend has in common.

They are all `Any` to a type checker: what they say is for the reader.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the backend; where a user passes it, also an array or a nested list of numbers."""

Tree: TypeAlias = Any
"""A tensor, or a list, tuple, named tuple or dict of trees."""

States: TypeAlias = Any
"""The states of a cell, in the structure of its `state_size`."""
