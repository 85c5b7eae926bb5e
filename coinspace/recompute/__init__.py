"""Tools that compute the index offline and compare it with the stored records.

`snapshots` and `feeds` are the inputs, `offline` runs the stages over them, `verify` compares,
`audit` recomputes and compares stored records. No process of the platform imports these tools.
"""
