"""Video classification: list files, decoding, sampling, clips."""

from dyt.tasks.video.decoding import VideoError, VideoWarning
from dyt.tasks.video.spec import VideoSpec
from dyt.tasks.video.task import Video

__all__ = ["Video", "VideoError", "VideoSpec", "VideoWarning"]
