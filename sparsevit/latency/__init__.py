"""Latency as evidence: the meter, the receipt that goes with each number, and the quiet device.

Nothing is imported here: `quiet` and `digest` serve processes that load no torch.
"""
