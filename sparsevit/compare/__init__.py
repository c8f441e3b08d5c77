"""The paper's comparison: dense, fewer pixels, fewer channels, uniform and searched sparsity."""
