"""PyTorch's `fully_shard` around a model of Keras': each process holds a part of every weight."""

from __future__ import annotations

from typing import Any

import torch


class Sharded(torch.nn.Module):
    """Points Keras' variables at the tensors that a step computes with.

    `fully_shard` puts other tensors in a module's place of a parameter: its part of a weight, and
    during a step the whole. A variable of Keras' holds on to the tensor that it was made with, so
    that a model of Keras' alone would compute with weights that nobody trains.

    Args:
        model: A built model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        places = {
            id(tensor): (module, name)
            for module in model.modules()
            for name, tensor in module._parameters.items()
        }
        self.places = [(v, *places[id(v.value)]) for v in model.variables]

    def forward(self, x: Any) -> Any:
        """Run the model."""
        for variable, module, name in self.places:
            variable._value = module._parameters[name]
        return self.model(x)

    def make_whole(self) -> None:
        """Give the variables whole weights again."""
        for variable, module, name in self.places:
            variable._value = torch.nn.Parameter(
                module._parameters[name].full_tensor().detach(), requires_grad=False
            )


def sharded(model: Any, processes: int) -> Sharded:
    """Divide a model's weights among all processes.

    Args:
        model: A built model.
        processes: Their number.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():
        # Keras' orthogonal matrices are stored transposed, which `fully_shard` refuses.
        parameter.data = parameter.data.contiguous()
    wrapped = Sharded(model)
    fully_shard(wrapped, mesh=init_device_mesh("cpu", (processes,)))
    return wrapped
