"""The laws of DESIGN.md as property tests over every registered component; `strategies` and `models` are reusable."""
