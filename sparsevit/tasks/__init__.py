"""Tasks: model, loss and metric of each kind of output."""
