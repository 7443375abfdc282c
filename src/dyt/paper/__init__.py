"""What the paper prints, as tables in files, and our figures beside it. Nothing that a model needs is here."""
