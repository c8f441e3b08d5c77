"""The Swin backbone with window activation pruning."""
