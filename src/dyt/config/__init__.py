"""What a user writes: specs, spec files, and presets."""
