"""MiRU."""

from __future__ import annotations

import dataclasses

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class MiRUCell(cellkit.EquationCell, numbers={"update_coefficient": 0.5, "reset_coefficient": 0.5}):
    """MiRU: a GRU in which numbers stand for the gates.

    Paper: Zyarah and Kudithipudi 2025, "Minion Gated Recurrent Unit for Continual Learning",
    arXiv:2503.06175.

    The candidate is the only product that is left, a third of a GRU's, which is what small devices
    need.

    Args:
        units: Number of units H.
        variant: `"miru2"` (default; both gates are numbers, which the paper's savings are about) or
            `"miru1"` (the update gate alone is).
        update_coefficient: Part of the state that stays. Default 0.5, as in torchrecurrent; the
            paper tunes it. Near 1 the cell remembers longer.
        reset_coefficient: Part of the state that enters the candidate. Default 0.5, likewise. Not
            used by `"miru1"`.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MiRUCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    variant="miru2":
        r = reset_coefficient
    variant="miru1":
        r = s(W_r @ x + U_r @ h + b_r)         reset gate
    n  = tanh(W @ x + U @ (r * h) + b)         candidate
    h' = update_coefficient * h + (1 - update_coefficient) * n
    """
    guide = Guide("gru", "Use it when a device has no room for gates.", ("tiny",))


MiRUCell.spec = dataclasses.replace(
    MiRUCell.spec,
    aliases={"miru1": {"variant": "miru1"}, "miru2": {"variant": "miru2"}},
    cases={
        **MiRUCell.spec.cases,
        # The default has no gate that could be activated.
        "activations": {"units": 3, "activation": "softsign", "reset_coefficient": 0.25},
        "hard": {
            "units": 3,
            "variant": "miru1",
            "recurrent_activation": "hard_sigmoid",
            "update_coefficient": 0.75,
        },
    },
)
