"""The index computed again from books, recordings or stored rows, and compared with it.

`snapshots` and `feeds` are the inputs, `offline` runs the stages over them, `verify` compares,
`audit` does both for what is stored. Tools on top of the stages: no process of the platform
imports them.
"""
