"""Training: sparsity-aware adaptation and fine-tuning."""
