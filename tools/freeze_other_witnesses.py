"""Freeze what libraries other than torchrecurrent compute, as witnesses for cells.

    pip install torchrecurrent==0.2.5
    pip install --no-deps labml labml-helpers labml-nn==0.5.1 neuralhydrology==1.13.0
    pip install --no-deps sru==2.6.0 ur-lstm-torch==0.0.2 speechbrain==1.1.2
    pip install sinabs==3.1.3 torchrl==0.14.1 memax==0.1.1
    pip download --no-deps --no-binary :all: haste_pytorch_cpu==0.5.5    # and unpack it
    git clone https://github.com/erichson/LipschitzRNN
    KERAS_BACKEND=torch python tools/freeze_other_witnesses.py [--lipschitz FOLDER] [--haste FOLDER]

It does what `tools/freeze_witnesses.py` does, for classes that have an interface each of their own.
What a class does not import by itself for want of its other dependencies is loaded from its file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from freeze_witnesses import BATCH, FEATURES, FOLDER, TIME, UNITS, _lines, named

from cellkit.registry import export_weights

LIPSCHITZ = Path("LipschitzRNN")
HASTE = Path("haste_pytorch_cpu-0.5.5/frameworks/pytorch")


@dataclass
class Witness:
    """Cell as other code computes it.

    Args:
        library: Name of the distribution, or of the repository.
        cls: Class or function that computes it.
        run: ``(letters, inputs, states, options) -> (output of each step, states after each
            step)``, all in NumPy, batch first.
        options: Arguments of the cell, which its file states as `hyper`.
        inputs: Widths of the inputs by their name in the file.
        states: Shapes of states that are not vectors of units, without the batch.
        bring: Brings drawn inputs and states into the range that the cell takes.
        letters: Brings drawn weights into the range that they can have.
        output: Meaning of `y`.
        dtype: Dtype that the library computes in.
        version: Version, where the distribution does not say it.
        notes: Departures from the paper, and changes that brought it to run.
    """

    library: str
    cls: str
    run: Callable[..., tuple[Any, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=lambda: {"x": FEATURES})
    states: dict[str, tuple[int, ...]] = field(default_factory=dict)
    bring: Callable[[Any, Any], tuple[Any, Any]] | None = None
    letters: Callable[[Any], Any] | None = None
    output: str = "h"
    dtype: str = "float64"
    version: str | None = None
    notes: str = ""


def tensor(array: Any) -> Any:
    """Return a tensor in the dtype of an array."""
    return torch.tensor(np.asarray(array))


def load(distribution: str, path: str, **stubs: Any) -> Any:
    """Load one file of a distribution, with stand-ins for modules that it imports.

    Args:
        distribution: Its name.
        path: Of the file inside of it.
        **stubs: Names in modules that stand in, such as ``neuralhydrology__utils__config={"Config":
            object}``; two underscores are a dot.
    """
    for name, values in stubs.items():
        parts = name.split("__")
        for length in range(1, len(parts) + 1):
            module = types.ModuleType(".".join(parts[:length]))
            module.__path__ = []
            sys.modules.setdefault(module.__name__, module)
        vars(sys.modules[".".join(parts)]).update(values)
    file = importlib.metadata.distribution(distribution).locate_file(path)
    spec = importlib.util.spec_from_file_location("loaded_" + Path(path).stem, str(file))
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps(advance: Callable[[Any, Any], tuple[Any, Any]], inputs: Any, states: Any) -> Any:
    """Go through the steps with ``advance(inputs of a step, states) -> (output, states)``."""
    outputs = []
    now = [tensor(s) for s in states]
    with torch.no_grad():
        for t in range(TIME):
            output, now = advance([tensor(x[:, t]) for x in inputs], now)
            outputs.append(output.numpy())
    return np.stack(outputs, axis=1), [s.numpy() for s in now]


def rhn(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run labml's recurrent highway network, whose carry gate is coupled."""
    from labml_nn.recurrent_highway_networks import RHNCell

    depth = options["depth"]
    cell = RHNCell(FEATURES, UNITS, depth).double()
    with torch.no_grad():
        cell.input_lin.weight.copy_(tensor(np.concatenate([w["W_p"], w["W_t"]], axis=1).T))
        for d, layer in enumerate(cell.hidden_lin, start=1):
            layer.weight.copy_(tensor(np.concatenate([w[f"U_p{d}"], w[f"U_t{d}"]], axis=1).T))
            layer.bias.copy_(tensor(np.concatenate([w[f"b_p{d}"], w[f"b_t{d}"]])))

    def advance(x: Any, state: Any) -> Any:
        h = cell(x[0], state[0])
        return h, [h]

    return steps(advance, inputs, states)


def lipschitz(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run the authors' Lipschitz RNN: its right-hand side, and Euler's step around it."""
    sys.path.insert(0, str(LIPSCHITZ))
    for name in ("torchdiffeq", "torchvision", "torchvision.datasets", "torchvision.transforms"):
        module = sys.modules.setdefault(name, types.ModuleType(name))
        vars(module).update(odeint=None, datasets=None, transforms=None)
    vars(torch._utils).setdefault("_accumulate", itertools.accumulate)  # older versions had it
    models = importlib.import_module("models")
    beta, gamma, epsilon = options["beta"], options["gamma"], options["epsilon"]
    model = models.LipschitzRNN_ODE(UNITS, beta, gamma, 1.0).double()
    model.I = model.I.double()
    with torch.no_grad():
        model.B.copy_(tensor(w["M_A"]))
        model.C.copy_(tensor(w["M_W"]))

    def advance(x: Any, state: Any) -> Any:
        model.z = x[0] @ tensor(w["U"]) + tensor(w["b"])
        h = state[0] + epsilon * model(0.0, state[0])
        return h, [h]

    return steps(advance, inputs, states)


def mass_conserving(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run neuralhydrology's MC-LSTM, row by row: its norm goes over the whole batch."""
    config = types.SimpleNamespace(initial_forget_bias=None)
    module = load(
        "neuralhydrology",
        "neuralhydrology/modelzoo/mclstm.py",
        neuralhydrology__modelzoo__basemodel={"BaseModel": torch.nn.Module},
        neuralhydrology__modelzoo__inputlayer={"InputLayer": None},
        neuralhydrology__utils__config={"Config": object},
    )
    masses = inputs[0].shape[-1]
    cell = module._MCLSTMCell(masses, inputs[1].shape[-1], UNITS, config).double()
    gates = {"o": cell.output_gate, "i": cell.input_gate, "r": cell.redistribution}
    with torch.no_grad():
        for letter, gate in gates.items():
            joined = np.concatenate([w[f"W_{letter}"], w[f"U_{letter}"]])
            gate.fc.weight.copy_(tensor(joined.T))
            gate.fc.bias.copy_(tensor(w[f"b_{letter}"]))

    def advance(x: Any, state: Any) -> Any:
        rows = [
            cell._step(xm[None], xa[None], c[None])
            for xm, xa, c in zip(x[0], x[1], state[0], strict=True)
        ]
        return torch.cat([y for y, _ in rows]), [torch.cat([c for _, c in rows])]

    return steps(advance, inputs, states)


def ea_lstm(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run neuralhydrology's EA-LSTM: its step, and the input gate as its layer computes it."""
    config = types.SimpleNamespace(initial_forget_bias=None, hidden_size=UNITS)
    module = load(
        "neuralhydrology",
        "neuralhydrology/modelzoo/ealstm.py",
        neuralhydrology__modelzoo__basemodel={"BaseModel": torch.nn.Module},
        neuralhydrology__modelzoo__head={"get_head": None},
        neuralhydrology__modelzoo__inputlayer={"InputLayer": None},
        neuralhydrology__utils__config={"Config": object},
    )
    gates = module._DynamicGates(config, FEATURES).double()
    with torch.no_grad():
        gates.weight_ih.copy_(tensor(np.concatenate([w[f"W_{g}"] for g in "fog"], axis=1)))
        gates.weight_hh.copy_(tensor(np.concatenate([w[f"U_{g}"] for g in "fog"], axis=1)))
        gates.bias.copy_(tensor(np.concatenate([w[f"b_{g}"] for g in "fog"])))
    own = types.SimpleNamespace(dynamic_gates=gates)

    def advance(x: Any, state: Any) -> Any:
        i = torch.sigmoid(x[1] @ tensor(w["W_i"]) + tensor(w["b_i"]))
        h, c = module.EALSTM._cell(own, x[0], i, tuple(state))
        return h, [h, c]

    return steps(advance, inputs, states)


def ur_lstm(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run ur-lstm-torch, without the biases that the paper's forget and refine gate lack."""
    from ur_lstm import URLSTMCell

    cell = URLSTMCell(FEATURES, UNITS).double()
    zeros = np.zeros(UNITS)
    with torch.no_grad():
        cell.igates.weight.copy_(tensor(np.concatenate([w[f"W_{g}"] for g in "fruo"], axis=1).T))
        cell.hgates.weight.copy_(tensor(np.concatenate([w[f"U_{g}"] for g in "fruo"], axis=1).T))
        cell.igates.bias.copy_(tensor(np.concatenate([zeros, zeros, w["b_u"], w["b_o"]])))
        cell.hgates.bias.zero_()
        cell.forget_bias.copy_(tensor(w["b"]))

    def advance(x: Any, state: Any) -> Any:
        h, (h, c) = cell(x[0], tuple(state))
        return h, [h, c]

    return steps(advance, inputs, states)


def sru(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run the authors' SRU, whose matrices lie side by side unit by unit."""
    from sru import SRUCell

    first = "v_f" not in w
    cell = SRUCell(FEATURES, UNITS, rescale=False, v1=first, use_tanh=first).eval()
    kernels = np.stack([w["W"], w["W_f"], w["W_r"], w["W_s"]], axis=-1)
    zeros = np.zeros(UNITS, "float32")
    with torch.no_grad():
        cell.weight.copy_(tensor(kernels.reshape(FEATURES, -1)))
        cell.weight_c.copy_(tensor(np.concatenate([w.get("v_f", zeros), w.get("v_r", zeros)])))
        cell.bias.copy_(tensor(np.concatenate([w["b_f"], w["b_r"]])))

    def advance(x: Any, state: Any) -> Any:
        h, c = cell(x[0][None], state[0])
        return h[0], [c]

    return steps(advance, inputs, states)


def layer_norm_gru(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run haste's layer-normalised GRU on the CPU, which needs none of its kernels."""
    sys.modules.setdefault("haste_pytorch_lib", types.ModuleType("haste_pytorch_lib"))
    package = types.ModuleType("haste")
    package.__path__ = [str(HASTE)]
    sys.modules.setdefault("haste", package)
    layer = importlib.import_module("haste.layer_norm_gru").LayerNormGRU(FEATURES, UNITS).double()
    with torch.no_grad():
        layer.kernel.copy_(tensor(w["W"]))
        layer.recurrent_kernel.copy_(tensor(w["U"]))
        layer.bias.copy_(tensor(w["b"]))
        layer.recurrent_bias.copy_(tensor(w["d"]))
        layer.gamma.copy_(tensor(np.stack([w["gamma_x"], w["gamma_h"]])))

    def advance(x: Any, state: Any) -> Any:
        output, h = layer(x[0][None], state[0][None])
        return output[0], [h[0]]

    return steps(advance, inputs, states)


def hyper_lstm(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run labml's hyper-LSTM."""
    from labml_nn.hypernetworks.hyper_lstm import HyperLSTMCell

    small, features = options["hyper_units"], options["hyper_features"]
    cell = HyperLSTMCell(FEATURES, UNITS, small, features).double()

    def joined(letter: str, names: Any) -> Any:
        return tensor(np.concatenate([w[f"{letter}_{n}"] for n in names], axis=-1).T)

    with torch.no_grad():
        cell.hyper.input_lin.weight.copy_(joined("P", "ifgo"))
        cell.hyper.hidden_lin.weight.copy_(joined("Q", "ifgo"))
        cell.hyper.hidden_lin.bias.copy_(joined("b", "ifgo"))
        inner = [f"p{gate}" for gate in "ifgo"]
        norms = [*zip(cell.hyper.layer_norm, inner, strict=True), (cell.hyper.layer_norm_c, "q")]
        norms += [*zip(cell.layer_norm, "ifgo", strict=True), (cell.layer_norm_c, "c")]
        for norm, name in norms:
            norm.weight.copy_(tensor(w[f"gamma_{name}"]))
            norm.bias.copy_(tensor(w[f"beta_{name}"]))
        for linear, letter, bias in (
            (cell.z_h, "A", "a"),
            (cell.z_x, "B", "e"),
            (cell.z_b, "C", None),
        ):
            linear.weight.copy_(joined(letter, "ifgo"))
            if bias is not None:
                linear.bias.copy_(joined(bias, "ifgo"))
        for j, gate in enumerate("ifgo"):
            cell.d_h[j].weight.copy_(tensor(w[f"D_{gate}"].T))
            cell.d_x[j].weight.copy_(tensor(w[f"E_{gate}"].T))
            cell.d_b[j].weight.copy_(tensor(w[f"L_{gate}"].T))
            cell.d_b[j].bias.copy_(tensor(w[f"d_{gate}"]))
            cell.w_h[j].copy_(tensor(w[f"U_{gate}"].T))
            cell.w_x[j].copy_(tensor(w[f"W_{gate}"].T))

    def advance(x: Any, state: Any) -> Any:
        h, c, p, q = cell(x[0], *state)
        return h, [h, c, p, q]

    return steps(advance, inputs, states)


def ode_lstm(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run torch's LSTM cell and then neuralhydrology's ODE cell, row by row: it takes one gap."""
    module = load(
        "neuralhydrology",
        "neuralhydrology/modelzoo/odelstm.py",
        pandas={},
        neuralhydrology__datautils__utils={"get_frequency_factor": None, "sort_frequencies": None},
        neuralhydrology__modelzoo__basemodel={"BaseModel": torch.nn.Module},
        neuralhydrology__modelzoo__customlstm={"_LSTMCell": None},
        neuralhydrology__modelzoo__head={"get_head": None},
        neuralhydrology__utils__config={"Config": object},
    )
    lstm = torch.nn.LSTMCell(FEATURES, UNITS).double()
    unfolds, solver = options["ode_unfolds"], options["solver"]
    ode = module._ODERNNCell(UNITS, UNITS, unfolds, solver).double()
    with torch.no_grad():
        lstm.weight_ih.copy_(tensor(np.concatenate([w[f"W_{g}"] for g in "ifgo"], axis=1).T))
        lstm.weight_hh.copy_(tensor(np.concatenate([w[f"U_{g}"] for g in "ifgo"], axis=1).T))
        lstm.bias_ih.copy_(tensor(np.concatenate([w[f"b_{g}"] for g in "ifgo"])))
        lstm.bias_hh.zero_()
        ode.w_ih.copy_(tensor(w["P"]))
        ode.w_hh.copy_(tensor(w["Q"]))
        ode.bias.copy_(tensor(w["b"]))
        ode.scale.copy_(tensor(w["scale"]))

    def advance(x: Any, state: Any) -> Any:
        p, c = lstm(x[0], tuple(state))
        rows = zip(p, state[0], x[1], strict=True)
        h = torch.cat([ode(new[None], old[None], float(gap)) for new, old, gap in rows])
        return h, [h, c]

    return steps(advance, inputs, states)


def _ode(solver: str) -> Witness:
    return Witness(
        "neuralhydrology",
        "neuralhydrology.modelzoo.odelstm._ODERNNCell after torch.nn.LSTMCell",
        ode_lstm,
        {"ode_unfolds": 2, "solver": solver},
        inputs={"x": FEATURES, "dt": 1},
        bring=lambda inputs, states: ([inputs[0], np.abs(inputs[1])], states),
        notes="Run row by row, because the library takes one gap for the whole batch. The class "
        "alone is loaded, with stand-ins for the library's configuration.",
    )


def ligru_batch_norm(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run SpeechBrain's layer at inference, with running statistics; the candidate is first."""
    module = load(
        "speechbrain",
        "speechbrain/nnet/RNN.py",
        speechbrain__nnet__attention={
            "ContentBasedAttention": None,
            "KeyValueAttention": None,
            "LocationAwareAttention": None,
        },
        speechbrain__utils__logger={"get_logger": lambda name: None},
    )
    layer = module.LiGRU_Layer(FEATURES, UNITS, 1, BATCH).double().eval()

    def joined(letter: str) -> Any:
        return tensor(np.concatenate([w[f"{letter}_{gate}"] for gate in "nz"], axis=-1))

    with torch.no_grad():
        layer.w.weight.copy_(joined("W").T)
        layer.u.weight.copy_(joined("U").T)
        layer.norm.weight.copy_(joined("g"))
        layer.norm.bias.copy_(joined("b"))
        layer.norm.running_mean.copy_(joined("m"))
        layer.norm.running_var.copy_(joined("v"))

    def advance(x: Any, state: Any) -> Any:
        h = layer(x[0][:, None], state[0])[:, 0]
        return h, [h]

    return steps(advance, inputs, states)


def alif(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run sinabs' neuron, which keeps potential and adaptation as a spike leaves them.

    The cell's states are those before a spike acts on them: a reset that the library calls notes
    the potential, and the adaptation is read before the step.
    """
    from sinabs.activation import MembraneSubtract, SingleSpike
    from sinabs.layers.functional.alif import alif_forward_single

    alpha, rho, beta = (tensor(options[name]) for name in ("alpha", "rho", "beta"))
    subtract, before = MembraneSubtract(), {}

    def reset(spikes: Any, state: Any, threshold: Any) -> Any:
        before["v"] = state["v_mem"]
        return subtract(spikes, state, threshold)

    v, a = map(tensor, states)
    z = (v > options["threshold"] + beta * a).double()
    left = {
        "v_mem": v - z * (options["threshold"] + beta * a),
        "b": rho * a + (1 - rho) * z,
    }
    outputs = []
    for t in range(TIME):
        current = tensor(inputs[0][:, t] @ w["W"] + w["b"]) + z.double() @ tensor(w["V"])
        a = left["b"]
        z, left = alif_forward_single(
            current, alpha, rho, None, beta, left, SingleSpike, reset, None, None,
            options["threshold"], True,
        )  # fmt: skip
        outputs.append(z.numpy())
    return np.stack(outputs, axis=1), [before["v"].numpy(), a.numpy()]


def block_gru(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run TorchRL's cell, whose blocks see their part of the state and then u and v whole."""
    from torchrl.modules import DreamerV3BlockGRUCell

    blocks, size = w["R"].shape[:2]
    wide = w["W_u"].shape[-1]
    cell = DreamerV3BlockGRUCell(
        FEATURES, UNITS, projection_size=wide, num_blocks=blocks, num_layers=options["depth"]
    )
    seen = np.concatenate([w["P_u"], w["P_v"]]).reshape(2 * wide, blocks, size).transpose(1, 0, 2)
    values = {
        "input_linear.weight": w["W_u"].T,
        "input_linear.bias": w["b_u"],
        "hidden_linear.weight": w["U_v"].T,
        "hidden_linear.bias": w["b_v"],
        "input_norm.weight": w["g_u"],
        "hidden_norm.weight": w["g_v"],
        "dynamic_linears.0.weight": np.concatenate([w["A_1"], seen], axis=1),
        "dynamic_linears.1.weight": w["A_2"],
        **{f"dynamic_linears.{d - 1}.bias": w[f"b_{d}"] for d in (1, 2)},
        **{f"dynamic_norms.{d - 1}.weight": w[f"g_{d}"] for d in (1, 2)},
        "gates.weight": np.concatenate([w["R"], w["N"], w["Z"]], axis=-1),
        "gates.bias": np.stack(
            [w[f"b_{gate}"].reshape(blocks, size) for gate in "rnz"], axis=1
        ).reshape(-1),
    }
    cell.load_state_dict({name: tensor(value) for name, value in values.items()})

    def advance(x: Any, state: Any) -> Any:
        h = cell(x[0], state[0])
        return h, [h]

    return steps(advance, inputs, states)


def ffm(w: Any, inputs: Any, states: Any, options: Any) -> Any:
    """Run memax's layer, row by row as it is made, over the whole sequence."""
    import equinox
    import jax
    import jax.numpy as jnp
    from memax.equinox.semigroups.ffm import FFM

    (x,), (S,) = inputs, states
    model = FFM(UNITS, *S.shape[1:], key=jax.random.key(0))
    places = {
        "p": lambda m: m.pre,
        "i": lambda m: m.gate_in.linear,
        "o": lambda m: m.gate_out.linear,
        "z": lambda m: m.mix,
    }
    for name, place in places.items():
        for part, value in (("weight", w[f"W_{name}"].T), ("bias", w[f"b_{name}"])):
            model = equinox.tree_at(
                lambda m, at=place, part=part: getattr(at(m), part), model, jnp.array(value)
            )
    turned = (jnp.array(w["alpha"]), jnp.array(w["omega"]))
    model = equinox.tree_at(lambda m: m.algebra.algebra.params, model, turned)
    starts, outputs, last = jnp.zeros(TIME, bool), [], []
    for row, state in zip(x, S, strict=True):
        first = ((jnp.array(state), jnp.array(0)), jnp.array(False))
        ((run, _), _), y = model(first, (jnp.array(row), starts))
        outputs.append(np.asarray(y))
        last.append(np.asarray(run[-1]))
    return np.stack(outputs), [np.stack(last)]


WITNESSES = {
    "ligru_batch_norm": Witness(
        "speechbrain",
        "speechbrain.nnet.RNN.LiGRU_Layer(normalization='batchnorm'), at inference",
        ligru_batch_norm,
        {"normalization": "batch", "epsilon": 1e-5},
        letters=lambda letters: {
            key: np.abs(value) + 0.1 if key.startswith("v_") else value
            for key, value in letters.items()
        },
        notes="The file of the layer alone is loaded, with stand-ins for what it imports.",
    ),
    "alif_sinabs": Witness(
        "sinabs",
        "sinabs.layers.functional.alif.alif_forward_single",
        alif,
        {"reset": "decayed", "alpha": 0.75, "rho": 0.875, "beta": 0.5, "threshold": 0.125},
        bring=lambda inputs, states: (inputs, [states[0], 0.25 * np.abs(states[1])]),
        output="y, spikes",
        notes="Currents are made of inputs and spikes by two products beside the library, which "
        "takes them as its input. It keeps states as a spike leaves them; the file has those "
        "before a spike acts on them, as the cell.",
    ),
    "block_gru": Witness(
        "torchrl",
        "torchrl.modules.DreamerV3BlockGRUCell",
        block_gru,
        {"blocks": 2, "projection_units": 3, "depth": 2},
        dtype="float32",
        notes="The library normalises in float32.",
    ),
    "ffm": Witness(
        "memax",
        "memax.equinox.semigroups.ffm.FFM",
        ffm,
        {"skip": "identity", "traces": 3, "contexts": 2},
        inputs={"x": UNITS},
        states={"S": (3, 2)},
        bring=lambda inputs, states: (inputs, [states[0] + 1j * states[0][::-1]]),
        output="y",
        dtype="float32",
        notes="The library computes in float32 and complex64, and lets x itself pass by.",
    ),
    "hyper_lstm": Witness(
        "labml-nn",
        "labml_nn.hypernetworks.hyper_lstm.HyperLSTMCell",
        hyper_lstm,
        {"hyper_units": 3, "hyper_features": 2},
        states={"p": (3,), "q": (3,)},
    ),
    "ode_lstm": _ode("rk4"),
    "ode_lstm_heun": _ode("heun"),
    "ode_lstm_euler": _ode("euler"),
    "ea_lstm": Witness(
        "neuralhydrology",
        "neuralhydrology.modelzoo.ealstm.EALSTM._cell",
        ea_lstm,
        inputs={"x": FEATURES, "a": 3},
        notes="Attributes differ from step to step here, to show that each step sees its own. The "
        "input gate is computed as the library's layer does. The class alone is loaded, with "
        "stand-ins for the library's configuration.",
    ),
    "ur_lstm": Witness(
        "ur-lstm-torch",
        "ur_lstm.URLSTMCell",
        ur_lstm,
        notes="The library's biases of forget and refine gate beside the shared one are zero.",
    ),
    "sru": Witness(
        "sru",
        "sru.SRUCell(rescale=False)",
        sru,
        output="y",
        dtype="float32",
        notes="Without its rescaling. The library computes in float32.",
    ),
    "sru_v1": Witness(
        "sru",
        "sru.SRUCell(v1=True, use_tanh=True, rescale=False)",
        sru,
        output="y",
        dtype="float32",
        notes="Without its rescaling. The library computes in float32.",
    ),
    "layer_norm_gru": Witness(
        "haste_pytorch_cpu",
        "haste_pytorch.LayerNormGRU",
        layer_norm_gru,
        {"epsilon": 1e-5},
        version="0.5.5",
        notes="The library's path for the CPU, with a stand-in for its extension.",
    ),
    "rhn": Witness(
        "labml-nn",
        "labml_nn.recurrent_highway_networks.RHNCell",
        rhn,
        {"depth": 3},
        notes="The library couples the carry gate, and has no biases on the input's side.",
    ),
    "lipschitz_rnn": Witness(
        "LipschitzRNN",
        "models.LipschitzRNN_ODE (github.com/erichson/LipschitzRNN, by the authors)",
        lipschitz,
        {"epsilon": 0.25, "beta": 0.75, "gamma": 0.125},
        version="df6552e",
        notes="Euler's step around the right-hand side, which is the library's; no decoder.",
    ),
    "mass_conserving_lstm_hydrology": Witness(
        "neuralhydrology",
        "neuralhydrology.modelzoo.mclstm._MCLSTMCell",
        mass_conserving,
        {"variant": "hydrology"},
        inputs={"x": 2, "auxiliary": FEATURES},
        bring=lambda inputs, states: ([np.abs(inputs[0]), inputs[1]], [np.abs(states[0])]),
        output="y",
        notes="Run row by row, because the library's norm goes over the batch. x is the mass, "
        "auxiliary what the gates see. The class alone is loaded, with stand-ins for the library's "
        "configuration.",
    ),
}


def freeze(name: str, witness: Witness) -> dict[str, Any]:
    """Compute one cell with other code, write its file, and return its entry."""
    rng = np.random.default_rng(sum(map(ord, name)))
    registered, alias = named(name)
    spec = registered.spec
    cell = registered.cls(UNITS, **{**alias, **witness.options}, dtype="float64")
    widths = list(witness.inputs.values())
    shapes = [(None, width) for width in widths]
    cell.build(shapes if len(shapes) > 1 else shapes[0])
    letters = {key: rng.normal(size=v.shape) * 0.7 for key, v in export_weights(cell).items()}
    inputs = [rng.normal(size=(BATCH, TIME, width)) for width in widths]
    states = [rng.normal(size=(BATCH, *witness.states.get(n, (UNITS,)))) for n in spec.states]
    if witness.bring is not None:
        inputs, states = witness.bring(inputs, states)
    if witness.letters is not None:
        letters = witness.letters(letters)
    letters = {key: _real(value, witness.dtype) for key, value in letters.items()}
    inputs, states = ([_real(a, witness.dtype) for a in group] for group in (inputs, states))
    arrays = dict(zip(witness.inputs, inputs, strict=True))
    arrays |= {f"state0.{n}": s for n, s in zip(spec.states, states, strict=True)}
    y, final = witness.run(letters, inputs, states, witness.options)
    arrays |= {"y": y, **{f"stateT.{n}": s for n, s in zip(spec.states, final, strict=True)}}
    arrays |= {f"w.{key}": value for key, value in letters.items()}
    entry = {
        "cell": name,
        "file": f"{name}.npz",
        "library": witness.library,
        "version": witness.version or importlib.metadata.version(witness.library),
        "class": witness.cls,
        "dtype": witness.dtype,
        "equation": _lines(registered.cls),
        "states": list(spec.states),
        "output": witness.output,
        "initial_state": "random",
        "hyper": witness.options,
        **({"inputs": list(witness.inputs)} if len(witness.inputs) > 1 else {}),
        "notes": witness.notes,
        "shapes": {key: list(value.shape) for key, value in arrays.items()},
        "dtypes": {key: str(value.dtype) for key, value in arrays.items()},
        **_differences(spec, cell.get_config(), letters, inputs, states, arrays),
    }
    np.savez_compressed(FOLDER / entry["file"], **arrays)
    return entry


def _real(array: Any, dtype: str) -> Any:
    """Return an array in a dtype; a complex one in the dtype of that width."""
    complex_dtype = np.result_type(dtype, np.complex64)
    return array.astype(complex_dtype if np.iscomplexobj(array) else dtype)


def _differences(
    spec: Any, config: Any, letters: Any, inputs: Any, states: Any, arrays: Any
) -> dict[str, Any]:
    """Compare what was computed with the cell's reference, in float64."""
    outputs = []
    letters = {key: _real(value, "float64") for key, value in letters.items()}
    inputs, states = ([_real(a, "float64") for a in group] for group in (inputs, states))
    for t in range(TIME):
        step = [x[:, t] for x in inputs]
        output, states = spec.reference(letters, step if len(step) > 1 else step[0], states, config)
        outputs.append(output)
    have = {"y": np.stack(outputs, axis=1)}
    have |= {f"stateT.{n}": s for n, s in zip(spec.states, states, strict=True)}
    found = {key: float(np.abs(value - arrays[key]).max()) for key, value in have.items()}
    relative = {key: found[key] / float(np.abs(arrays[key]).max()) for key in found}
    return {
        "max_abs_diff": max(found.values()),
        "max_rel_diff": max(relative.values()),
        "diff_per_key": found,
    }


def main() -> None:
    """Freeze every witness, or those that are named, and write the manifest anew."""
    global LIPSCHITZ, HASTE
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--lipschitz", type=Path, default=LIPSCHITZ, help="the authors' repository")
    parser.add_argument("--haste", type=Path, default=HASTE, help="the unpacked sources")
    options = parser.parse_args()
    LIPSCHITZ, HASTE = options.lipschitz, options.haste
    keras.config.set_floatx("float64")
    path = FOLDER / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entries = {entry["cell"]: entry for entry in manifest["cells"]}
    for name, witness in WITNESSES.items():
        if options.names and name not in options.names:
            continue
        entries[name] = freeze(name, witness)
        print(f"{name:<32} {entries[name]['max_abs_diff']:.1e}")
    manifest["cells"] = list(entries.values())
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
