"""Which windows a block computes: configs, window scores, selection."""
