"""Recordings: the feed file format, the recorder beside the live path, and tools for feeds."""
