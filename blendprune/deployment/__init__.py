"""Deployment: a trained model in the form that runs fastest, with the same inputs and outputs.

Importing this room imports none of its parts: a machine that only runs exported files needs no
Torch-Pruning.
"""
