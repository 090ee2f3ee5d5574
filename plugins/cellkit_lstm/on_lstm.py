"""ONLSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class ONLSTMCell(cellkit.EquationCell):
    """ON-LSTM: ordered neurons, which forget and are written in the order of a hierarchy.

    Paper: Shen, Tan, Sordoni and Courville 2019, "Ordered Neurons: Integrating Tree Structures
    into Recurrent Neural Networks", arXiv:1810.09536.

    Two master gates are cumulative sums, so that they rise from 0 to 1 along the units: high
    units keep what spans many steps. A master gate has one value for each chunk of units.

    Args:
        units: Number of units H.
        chunk_size: Number of units for each value of a master gate; it divides `units`. Default 2.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ONLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    chunk_size = 2
    i, f, o = s(W @ x + U @ h + b)             gates
    g  = tanh(W_g @ x + U_g @ h + b_g)         candidate
    mf = cumsum(softmax(W_mf @ x + U_mf @ h + b_mf))           master forget gate
    mi = 1 - cumsum(softmax(W_mi @ x + U_mi @ h + b_mi))       master input gate
    w  = repeat(mf * mi, chunk_size)           where both are open
    F  = f * w + (repeat(mf, chunk_size) - w)
    I  = i * w + (repeat(mi, chunk_size) - w)
    c' = F * c + I * g
    h' = o * tanh(c')
    """
    guide = Guide(
        "lstm",
        "Use it when sequences have nested parts whose borders are not given, such as phrases.",
        ("interpretable", "hierarchy", "language"),
    )
