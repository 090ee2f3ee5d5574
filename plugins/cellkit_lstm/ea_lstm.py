"""The entity-aware LSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class EALSTMCell(cellkit.EquationCell, inputs=("x", "a"), initializers={"b_f": "ones"}):
    """The entity-aware LSTM: what is known of an entity chooses which units its series may use.

    Paper: Kratzert et al. 2019, "Towards learning universal, regional, and local hydrological
    behaviors via machine learning applied to large-sample datasets", arXiv:1907.08456,
    section 2.2; the equations are its (7) to (12).

    The input gate sees attributes of the entity alone, such as those of a river basin, and not the
    series. So it is the same at every step.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`. The biases of the forget gate start at one.

    Inputs: `(x, a)` of shapes `(batch, features)` and `(batch, attributes)`. Attributes are
    repeated for every step. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(EALSTMCell(8))
    >>> layer.compute_output_shape(((None, 10, 3), (None, 10, 5)))
    (None, 8)
    """

    equations = """
    i  = s(W_i @ a + b_i)                      input gate, of the entity
    f  = s(W_f @ x + U_f @ h + b_f)            forget gate
    g  = tanh(W_g @ x + U_g @ h + b_g)         candidate
    o  = s(W_o @ x + U_o @ h + b_o)            output gate
    c' = f * c + i * g
    h' = o * tanh(c')
    """
    guide = Guide(
        "lstm",
        "Use it when one model serves many entities whose properties are known.",
        ("several inputs", "static inputs", "interpretable"),
    )
