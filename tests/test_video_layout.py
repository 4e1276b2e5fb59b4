"""Clips side by side, as one video and as one picture."""

import numpy as np
from PIL import Image

from vidgen.video import layout, writing


def test_grid_places_every_clip():
    videos = np.random.default_rng(0).integers(1, 256, (5, 2, 3, 4, 3), np.uint8)
    tiled = layout.grid(videos, columns=2)
    assert tiled.shape == (2, 9, 8, 3)
    for n in range(5):
        row, column = divmod(n, 2)
        assert (tiled[:, 3 * row : 3 * row + 3, 4 * column : 4 * column + 4] == videos[n]).all()
    assert not tiled[:, 6:, 4:].any()
    assert layout.grid(videos).shape == (2, 6, 12, 3)


def test_film_strips_show_first_to_last(tmp_path):
    videos = np.random.default_rng(0).integers(0, 256, (2, 5, 3, 4, 3), np.uint8)
    strips = layout.film_strips(videos, columns=3)
    assert strips.shape == (6, 12, 3)
    for row in range(2):
        for column, frame in enumerate((0, 2, 4)):
            tile = strips[3 * row : 3 * row + 3, 4 * column : 4 * column + 4]
            assert (tile == videos[row, frame]).all()
    writing.write_grid(tmp_path / "a.png", videos, columns=3)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == strips).all()
