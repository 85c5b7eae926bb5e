"""One index record per asset and tick: judge the venues, compute the value and its siblings,
store, explain, verify.

`calculator` turns aggregates into records, `snapshots` reads books from JSON lines, `commands`
are the offline tools,
`worker` runs the calculator on the bus and stores its records.
"""
