"""Freeze what fla-core, mambapy and recurrentgemma compute, as witnesses for the linear cells.

    pip install --no-deps fla-core==0.6.0 mambapy==1.2.0 recurrentgemma==1.0.1 einops "typeguard<3"
    pip install --no-deps jaxtyping
    KERAS_BACKEND=torch python tools/freeze_matrix_witnesses.py [NAME ...]

Each cell gets random weights, biases included, random inputs and random initial states. The
functions of fla take queries, keys, values and gates: those are computed here from the inputs by
the equations in the manifest, in float64, and the library computes the recurrence, in float32.
They are loaded by the paths of their files, since the package itself needs Triton.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch

import cellkit
from cellkit.registry import export_weights

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "golden"
BATCH, TIME, FEATURES = 3, 7, 5


def naive(place: str, name: str) -> Any:
    """Return a function of fla by the path of its file below `fla/ops`."""
    files = importlib.metadata.files("fla-core") or []
    path = next(f for f in files if str(f) == f"fla/ops/{place}")
    spec = importlib.util.spec_from_file_location(f"fla_{name}", path.locate())
    assert spec is not None and spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def project(w: Any, x: Any, letter: str, heads: int) -> Any:
    """Return a projection of the inputs by head, `(batch, heads, time, width / heads)`."""
    projected = x @ w[f"W_{letter}"] + w[f"b_{letter}"]
    projected = projected.reshape(*x.shape[:2], heads, projected.shape[-1] // heads)
    return projected.transpose(0, 2, 1, 3)


def sigmoid(x: Any) -> Any:
    """Return the logistic sigmoid."""
    return 1 / (1 + np.exp(-x))


def unit(x: Any) -> Any:
    """Return vectors of length one."""
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + 1e-6)


def tensors(*arrays: Any) -> list[Any]:
    """Return arrays as float32 tensors."""
    return [torch.tensor(np.ascontiguousarray(a, dtype="float32")) for a in arrays]


def time_first(*arrays: Any) -> list[Any]:
    """Exchange the axes of heads and time."""
    return [a.swapaxes(1, 2) for a in arrays]


def joined(o: Any) -> Any:
    """Return `(batch, heads, time, values)` with all heads side by side."""
    o = o.numpy().transpose(0, 2, 1, 3)
    return o.reshape(*o.shape[:2], -1)


def linear_attention(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's linear attention, normalised."""
    run = naive("linear_attn/naive.py", "naive_recurrent_linear_attn")
    q, k, v = (project(w, x, n, heads) for n in "qkv")
    q, k = (np.where(a > 0, a + 1, np.exp(np.minimum(a, 0.0))) for a in (q, k))
    states = tensors(s[0], s[1][:, None])
    found = time_first(*tensors(q, k, v))
    o, (last, z) = run(
        *found, scale=1.0, initial_state=tuple(states), output_final_state=True, normalize=True
    )
    return joined(o.transpose(1, 2)), [last.numpy(), z[:, 0].numpy()]


def retnet(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's retention, in its parallel form."""
    run = naive("retention/naive.py", "naive_retention")
    return joined(run(*tensors(*(project(w, x, n, heads) for n in "qkv")))), None


def gla(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's gated linear attention."""
    run = naive("gla/naive.py", "naive_recurrent_gla")
    gate = x @ w["W_1"] @ w["W_2"] + w["b_alpha"]
    g = -np.log1p(np.exp(-gate)).reshape(*x.shape[:2], heads, -1) / 16.0
    q, k, v = time_first(*tensors(*(project(w, x, n, heads) for n in "qkv")))
    o, last = run(q, k, v, *tensors(g, s[0]), output_final_state=True)
    return joined(o.transpose(1, 2)), [last.numpy()]


def delta_parts(w: Any, x: Any, heads: int) -> Any:
    """Return queries, keys, values and rates of a delta rule."""
    q, k, v, beta = (project(w, x, n, heads) for n in ("q", "k", "v", "beta"))
    return unit(q * sigmoid(q)), unit(k * sigmoid(k)), v, sigmoid(beta)[..., 0]


def delta_net(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's delta rule."""
    run = naive("delta_rule/naive.py", "delta_rule_recurrence")
    o, last = run(*tensors(*delta_parts(w, x, heads), s[0]))
    return joined(o), [last.numpy()]


def gated_delta_net(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's gated delta rule."""
    run = naive("gated_delta_rule/naive.py", "naive_recurrent_gated_delta_rule")
    a = project(w, x, "a", heads)[..., 0]
    g = -np.exp(w["A_log"])[:, None] * np.log1p(np.exp(a))
    parts = time_first(*tensors(*delta_parts(w, x, heads), g))
    o, last = run(*parts, initial_state=tensors(s[0])[0], output_final_state=True)
    return joined(o.transpose(1, 2)), [last.numpy()]


def rwkv6(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's RWKV-6."""
    run = naive("rwkv6/recurrent_naive.py", "naive_recurrent_rwkv6")
    r, k, v, d = (project(w, x, n, heads) for n in "rkvd")
    o, last = run(*tensors(r, k, v, -np.exp(d), w["u"]), 1.0, tensors(s[0])[0], True)
    return joined(o), [last.numpy()]


def rwkv7(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's delta rule of rank one with a diagonal, which RWKV-7 is."""
    run = naive("generalized_delta_rule/dplr/naive.py", "dplr_recurrence")
    r, k, v, d, a = (project(w, x, n, heads) for n in "rkvda")
    a, g = sigmoid(a), -np.exp(-0.5) * sigmoid(d)
    kappa = unit(w["xi"][:, None] * k)
    k = k * (1 + w["alpha"][:, None] * (a - 1))
    q = r * np.sqrt(r.shape[-1])
    o, last = run(*tensors(q, k, v, kappa, -a * kappa, g, s[0]))
    return joined(o), [last.numpy()]


def mamba2(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's linear attention with one decay for each head, which Mamba-2 is, and add D * u."""
    run = naive("simple_gla/naive.py", "naive_recurrent_simple_gla")
    u, d = project(w, x, "u", heads), project(w, x, "d", heads)
    b, c = (np.repeat(project(w, x, n, 1), heads, axis=1) for n in "BC")
    dt = np.log1p(np.exp(d))
    g = -np.exp(w["A_log"])[:, None] * dt[..., 0]
    parts = time_first(*tensors(c, b, dt * u, g))
    o, last = run(*parts, scale=1.0, initial_state=tensors(s[0])[0], output_final_state=True)
    skip = tensors(w["D"][:, None, None] * u)[0]
    return joined(o.transpose(1, 2) + skip), [last.numpy()]


def hgrn(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run fla's HGRN, and the output gate on what it returns."""
    run = naive("hgrn/naive.py", "naive_recurrent_hgrn")
    c, f, g = (x @ w[f"W_{n}"] + w[f"b_{n}"] for n in "cfg")
    f = 0.25 + 0.75 * sigmoid(f)
    h, last = run(*tensors((1 - f) * c * sigmoid(c), np.log(f), s[0]), True)
    return h.numpy() * sigmoid(g).astype("float32"), [last.numpy()]


def mamba(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run a block of mambapy step by step."""
    from mambapy.mamba import MambaBlock, MambaConfig

    inner, states = w["A_log"].shape
    config = MambaConfig(
        d_model=x.shape[-1], n_layers=1, d_state=states, expand_factor=inner // x.shape[-1]
    )
    config.dt_rank = len(w["W_dt"])
    block = MambaBlock(config).double()
    values = {
        "in_proj.weight": np.concatenate([w["W_p"], w["W_z"]], axis=1).T,
        "conv1d.weight": w["w_conv"].T[:, None],
        "conv1d.bias": w["b_conv"],
        "x_proj.weight": np.concatenate([w["W_r"], w["W_B"], w["W_C"]], axis=1).T,
        "dt_proj.weight": w["W_dt"].T,
        "dt_proj.bias": w["b_dt"],
        "A_log": w["A_log"],
        "D": w["D"],
        "out_proj.weight": w["W_out"].T,
    }
    block.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    cache = (torch.tensor(s[0]), torch.zeros(len(x), inner, config.d_conv - 1).double())
    outputs = []
    with torch.no_grad():
        for t in range(x.shape[1]):
            y, cache = block.step(torch.tensor(x[:, t]), cache)
            outputs.append(y.numpy())
    return np.stack(outputs, axis=1), [cache[0].numpy()]


def authors_layers() -> Any:
    """Return the PyTorch layers of recurrentgemma, without the package, which imports Flax."""
    files = importlib.metadata.files("recurrentgemma") or []
    path = next(f for f in files if str(f) == "recurrentgemma/torch/layers.py").locate()
    for name, place in (
        ("recurrentgemma", Path(str(path)).parents[1]),
        ("recurrentgemma.torch", Path(str(path)).parent),
    ):
        package = types.ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules.setdefault(name, package)
    return importlib.import_module("recurrentgemma.torch.layers")


def rg_lru(w: Any, x: Any, s: Any, heads: int, first: int = 5) -> Any:
    """Run the RG-LRU of its authors from a position."""
    layer = authors_layers().RGLRU(width=x.shape[-1], num_heads=heads)
    values = {
        "a_param": -w["Lambda"],
        "a_gate.w": w["W_a"],
        "a_gate.b": w["b_a"].reshape(heads, -1),
        "input_gate.w": w["W_x"],
        "input_gate.b": w["b_x"].reshape(heads, -1),
    }
    values = {name: tensors(value)[0] for name, value in values.items()}
    layer.load_state_dict(values)
    positions = torch.arange(first, first + x.shape[1])[None].repeat(len(x), 1)
    with torch.no_grad():
        y, last = layer(*tensors(x), positions, *tensors(s[0]))
    return y.numpy(), [last.numpy()]


def rg_lru_start(w: Any, x: Any, s: Any, heads: int) -> Any:
    """Run the RG-LRU of its authors from position 0."""
    return rg_lru(w, x, s, heads, first=0)


_FED = (
    "the library takes queries, keys, values and gates ready made, which were computed in float64 "
    "by the other lines; it computes the recurrence, in float32"
)
WITNESSES: dict[str, dict[str, Any]] = {
    "linear_attention": {
        "run": linear_attention,
        "options": {"num_heads": 2, "epsilon": 1e-10},
        "notes": _FED + "; it adds 1e-10 to the denominator",
    },
    "retnet": {"run": retnet, "notes": _FED + ", in its parallel form from the zero state"},
    "gla": {"run": gla, "options": {"num_heads": 2}, "given": {"gate_rank": 3}, "notes": _FED},
    "delta_net": {"run": delta_net, "notes": _FED},
    "gated_delta_net": {"run": gated_delta_net, "notes": _FED},
    "rwkv6": {"run": rwkv6, "notes": _FED + "; its scale is 1"},
    "rwkv7": {
        "run": rwkv7,
        "notes": _FED + "; queries times sqrt(K), which the library divides by",
    },
    "mamba2": {
        "run": mamba2,
        "given": {"state_units": 3},
        "notes": _FED + "; D * u is added after",
    },
    "hgrn": {
        "run": hgrn,
        "options": {"gamma": 0.25},
        "notes": "the library computes h from (1 - f) * c and log(f), in float32",
    },
    "mamba": {
        "run": mamba,
        "given": {"units": 5, "inner_units": 10, "state_units": 3, "step_rank": 2},
        "library": "mambapy",
        "class": "mambapy.mamba.MambaBlock.step",
        "notes": "run in float64, but the library rounds A to float32; inputs of the convolution "
        "before the first step are zeros",
    },
    "rg_lru": {
        "run": rg_lru,
        "options": {"num_heads": 2},
        "library": "recurrentgemma",
        "class": "recurrentgemma.torch.layers.RGLRU",
        "notes": "positions 5 to 11; block-diagonal gates; the library stores a_param = -Lambda",
        "features": 4,
    },
    "rg_lru_start": {
        "run": rg_lru_start,
        "cell": "rg_lru",
        "options": {"num_heads": 2},
        "library": "recurrentgemma",
        "class": "recurrentgemma.torch.layers.RGLRU",
        "notes": "positions 0 to 6: at 0 the state is dropped and h' = i * u",
        "features": 4,
    },
}


def freeze(name: str, witness: dict[str, Any]) -> dict[str, Any]:
    """Run one witness, store its file, and return its entry of the manifest."""
    rng = np.random.default_rng(sum(map(ord, name)))
    heads = 2 if name not in ("hgrn", "mamba") else 1
    registered = cellkit.get(witness.get("cell", name))
    hyper = witness.get("options", {"num_heads": heads})
    given = {"units": 4, **witness.get("given", {}), **hyper}
    given = {k: v for k, v in given.items() if k != "num_heads" or heads > 1}
    cell = registered.cls(**given)
    features = witness.get("features", FEATURES)
    cell.build((None, features))
    w = {
        letter: rng.normal(size=array.shape) * 0.6 for letter, array in export_weights(cell).items()
    }
    x = rng.normal(size=(BATCH, TIME, features))
    specs = keras.tree.flatten(cell.state_spec())
    states = [np.abs(rng.normal(size=(BATCH, *spec.shape))) + 0.1 for spec in specs]
    states = states if name == "linear_attention" else [rng.normal(size=s.shape) for s in states]
    states = [np.zeros_like(s) for s in states] if name == "retnet" else states
    names = registered.spec.states
    y, last = witness["run"](w, x, states, heads)
    dtype = witness.get("dtype", "float32")
    kept = len(last) if last is not None else 1
    arrays = {"x": x, "y": y}
    arrays |= {f"state0.{n}": s for n, s in zip(names, states[:kept], strict=False)}
    arrays |= {f"stateT.{n}": s for n, s in zip(names, last or [], strict=False)}
    arrays |= {f"w.{letter}": value for letter, value in w.items()}
    arrays = {key: value.astype(dtype) for key, value in arrays.items()}
    library = witness.get("library", "fla-core")
    text = getattr(registered.cls, "equations", None) or registered.cls.__doc__.split("```")[1]
    entry = {
        "cell": name,
        "file": f"{name}.npz",
        "library": library,
        "version": importlib.metadata.version(library),
        "class": witness.get("class", f"fla.ops, {witness['run'].__doc__.split('.')[0]}"),
        "dtype": dtype,
        "equation": [line.strip() for line in text.strip().splitlines()],
        "states": list(names[:kept]),
        "output": names[0] if "rg_lru" in name else "y, not a state",
        "initial_state": "zeros" if name == "retnet" else "random",
        "hyper": hyper,
        "notes": witness["notes"],
        "shapes": {key: list(value.shape) for key, value in arrays.items()},
        "dtypes": {key: str(value.dtype) for key, value in arrays.items()},
    }
    entry |= _differences(registered.spec, cell, arrays, names, name)
    np.savez_compressed(FOLDER / entry["file"], **arrays)
    return entry


def _differences(spec: Any, cell: Any, arrays: Any, names: Any, name: str) -> dict[str, Any]:
    """Compare what was computed with the cell's reference."""
    config = (
        {**cell.get_config(), **spec.configure(cell.get_config(), arrays)}
        if (spec.configure is not None and "rg_lru" in name)
        else cell.get_config()
    )
    w = {key[2:]: a.astype("float64") for key, a in arrays.items() if key.startswith("w.")}
    x, count = arrays["x"].astype("float64"), len(arrays["x"])
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(cell.state_spec())]
    zeros = [np.zeros((count, *shape)) for shape in shapes]
    if config.get("whole_first_input"):
        zeros.append(np.zeros((count, 1, config["units"] + 1)))
    states = [
        arrays.get(f"state0.{n}", zero).astype("float64")
        for n, zero in zip(names, zeros, strict=False)
    ]
    outputs = []
    for t in range(x.shape[1]):
        output, states = spec.reference(w, x[:, t], states, config)
        outputs.append(output)
    have = {"y": np.stack(outputs, axis=1)}
    have |= {f"stateT.{n}": s for n, s in zip(names, states, strict=False)}
    have = {key: value for key, value in have.items() if key in arrays}
    found = {key: float(np.abs(value - arrays[key]).max()) for key, value in have.items()}
    relative = {key: found[key] / float(np.abs(arrays[key]).max()) for key in found}
    return {
        "max_abs_diff": max(found.values()),
        "max_rel_diff": max(relative.values()),
        "diff_per_key": found,
    }


def main() -> None:
    """Freeze the witnesses that are named, or all, and write the manifest anew."""
    path = FOLDER / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entries = {entry["cell"]: entry for entry in manifest["cells"]}
    for name in sys.argv[1:] or WITNESSES:
        entries[name] = freeze(name, WITNESSES[name])
        found = entries[name]
        print(f"{name:<20} {found['max_abs_diff']:.1e} {found['max_rel_diff']:.1e}")
    manifest["cells"] = list(entries.values())
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
