"""The one family of errors that a user of `dyt` meets: each says in one line what was given, what is allowed, what to do."""


class DyTError(ValueError):
    """Bad input: a spec, a file, an image, a plug-in, a command line. The message is one line and complete."""


class SpecError(DyTError):
    """A spec that does not validate; the message names the field, what was given and what is allowed."""


class CheckpointError(DyTError):
    """A file that cannot be loaded whole; nothing was changed."""


class WeightsError(DyTError):
    """Pretrained weights that cannot be had (offline, unknown to timm, a wrong file)."""


class UnsupportedError(DyTError):
    """A backbone, variant or executor that cannot be combined; the message says why; nothing was changed."""
