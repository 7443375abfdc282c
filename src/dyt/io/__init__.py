"""Models in files: saving, loading, export, and the checkpoints of the released code."""
