"""The layers: `RNN`, `Bidirectional`, `StackedCells`, and what they are made of."""
