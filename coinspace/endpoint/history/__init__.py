"""Stored data: ranges, downloads of whole ranges, explanations."""
