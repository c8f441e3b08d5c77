"""Swin checkpoints: read safely in any dialect (load.py), and written back (save.py)."""
