"""spec -> model: what is decided, what goes with what, the timm backbone, windows, and taking it apart again."""
