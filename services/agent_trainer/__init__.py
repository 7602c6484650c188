"""agent-trainer: trains a small policy on a routine's traces and emits it as one signed module.

Reads `tasks` and `forgets`, and the learner's trace and snapshot artifacts. Writes `models`.
torch, numpy and onnx are loaded by the training child alone.
"""
