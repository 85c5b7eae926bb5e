"""Simulated exchanges on loopback, with faults on demand; the source is a market model or feeds.

The live path never imports this folder.
"""
