"""Models in files: saved, loaded, exported, and those of the authors' release."""
