"""Simulated exchanges on loopback: a market model or recordings as a source, and faults on demand.

The live path never imports this folder.
"""
