"""The search: its space, the latency map that filters it, and the evolution that explores it."""
