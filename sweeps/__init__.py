"""Hyperparameter search with Optuna: calls the experiments, called by nobody."""
