"""The functions that a script carries with it, where its lines call them."""

from __future__ import annotations

import re

TENSOR = """\
def tensor(values, dtype="float32"):
    return keras.ops.convert_to_tensor(np.array(values, dtype))
"""

PROJECT = """\
def project(result):
    total = 0.0
    for number, leaf in enumerate(keras.tree.flatten(result)):
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(leaf.dtype)):
            angles = 1.7 * np.arange(int(np.prod(leaf.shape))) + 0.3 + number
            weigh = np.cos(angles).reshape(tuple(leaf.shape)).astype("float32")
            total = total + keras.ops.sum(leaf * keras.ops.convert_to_tensor(weigh))
    return total
"""

DIFFERENTIATE = {
    "torch": """\
def differentiate(function, arrays):
    xs = [keras.ops.convert_to_tensor(array.copy()).requires_grad_() for array in arrays]
    found = torch.autograd.grad(function(xs), xs, allow_unused=True)
    return [np.zeros_like(a) if g is None else g.cpu().numpy() for a, g in zip(arrays, found)]
""",
    "tensorflow": """\
def differentiate(function, arrays):
    xs = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(xs)
        value = function(xs)
    found = tape.gradient(value, xs, unconnected_gradients="zero")
    return [tf.convert_to_tensor(g).numpy() for g in found]
""",
    "jax": """\
def differentiate(function, arrays):
    return [np.array(g) for g in jax.grad(function)([jax.numpy.array(a) for a in arrays])]
""",
}

IN_GRAPH = """\
def differentiate(function, arrays):
    @tf.function(autograph=False)
    def run(*xs):
        with tf.GradientTape() as tape:
            tape.watch(xs)
            value = function(xs)
        return tape.gradient(value, xs, unconnected_gradients="zero")

    return [tf.convert_to_tensor(g).numpy() for g in run(*map(tf.constant, arrays))]
"""

GRADIENTS = '''\
def gradients(layer, inputs, states, mask=None, training=False, take=lambda result: result):
    """Give the gradients of one number: by inputs, by states, and by weights."""
    if not layer.built:
        layer(inputs)
    states = [] if states is None else states
    weights = layer.trainable_variables
    data = [inputs, states, [w.value for w in weights]]
    flat = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(data)]
    floats = [i for i, leaf in enumerate(flat) if leaf.dtype == "float32"]

    def function(xs):
        leaves = [keras.ops.convert_to_tensor(leaf) for leaf in flat]
        for i, x in zip(floats, xs):
            leaves[i] = x
        x, s, values = keras.tree.pack_sequence_as(data, leaves)
        given = {"initial_state": s or None, "mask": mask, "training": training}
        given = {key: value for key, value in given.items() if value is not None}
        with keras.StatelessScope(state_mapping=list(zip(weights, values))):
            return project(take(layer(x, **given)))

    found = dict(zip(floats, differentiate(function, [flat[i] for i in floats])))
    ordered = [found.get(i) for i in range(len(flat))]
    first, last = len(keras.tree.flatten(inputs)), len(flat) - len(weights)
    return ordered[:first], ordered[first:last], ordered[last:]
'''


def needed(text: str, backend: str, own: dict[str, str]) -> dict[str, str]:
    """Find the functions that a program calls and does not define.

    Args:
        text: The lines of the program.
        backend: The Keras backend.
        own: Functions of this program alone, in place of those here or beside them.

    Returns:
        Name and text of each, in an order in which a function stands behind those that it calls.
    """
    known = {
        "tensor": TENSOR,
        "project": PROJECT,
        "differentiate": DIFFERENTIATE[backend],
        "gradients": GRADIENTS,
        **own,
    }
    found = {name: own[name] for name in own}
    while True:
        whole = "\n".join([text, *found.values()])
        missing = [n for n in known if n not in found and re.search(rf"(?<![\w.]){n}\(", whole)]
        if not missing:
            return {name: found[name] for name in known if name in found}
        found.update({name: known[name] for name in missing})
