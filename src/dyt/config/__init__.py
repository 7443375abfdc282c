"""What a user writes: specs, their files, their names."""
