"""Search over hyperparameters: spaces as Azure AutoML writes them, and trials on this machine."""
