"""Single video files: decoding, encoding, and replacing a file whole or not at all."""
