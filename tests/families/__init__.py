"""Families put through the laws; `zoo` is the table of tiny backbones."""
