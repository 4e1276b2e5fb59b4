"""Clips side by side: one video of many, or one picture of many."""

import math

import numpy as np


def grid(videos: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Tiles clips into one video, row by row.

    Args:
      videos: uint8 `[B, T, H, W, 3]`.
      columns: Clips in a row; None makes the grid about square.

    Returns:
      uint8 `[T, rows * H, columns * W, 3]`; places without a clip are black.
    """
    videos = np.asarray(videos)
    count, frames, height, width, channels = videos.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    blank = np.zeros((rows * columns - count, *videos.shape[1:]), videos.dtype)
    tiles = np.concatenate([videos, blank]).reshape(rows, columns, frames, height, width, channels)
    tiles = tiles.transpose(2, 0, 3, 1, 4, 5)  # time, row, y, column, x, channel
    return tiles.reshape(frames, rows * height, columns * width, channels)


def film_strips(videos: np.ndarray, columns: int = 8) -> np.ndarray:
    """Lays clips out as one picture: a row for each clip, its frames from left to right.

    Args:
      videos: uint8 `[B, T, H, W, 3]`.
      columns: Frames shown of each clip, evenly spaced from first to last; fewer if T is smaller.

    Returns:
      uint8 `[B * H, columns * W, 3]`.
    """
    videos = np.asarray(videos)
    count, frames, height, width, channels = videos.shape
    columns = min(columns, frames)
    shown = videos[:, np.linspace(0, frames - 1, columns).round().astype(int)]
    return shown.transpose(0, 2, 1, 3, 4).reshape(count * height, columns * width, channels)
