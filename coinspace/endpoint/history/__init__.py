"""The stored past: ranges, bulk answers, explanations."""
