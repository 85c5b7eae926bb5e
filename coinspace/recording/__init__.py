"""Recordings: the feed file, the recorder beside the live path, and tools over files."""
