"""Reading Swin checkpoints: safely, and in the naming (dialect) they were written in."""
