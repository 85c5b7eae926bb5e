"""One index record per asset and tick: judge the venues, compute the value and its siblings,
store, explain, verify.

`calculator` turns aggregates into records. `outage` and `backlog` account for missed ticks.
`memory` reads the method's memory back. `governance` and `chain` keep definitions and the hash
chain. `worker` runs the calculator on the bus and stores its records. `spool` keeps records while
the database does not take them. `commands` has the tools.
"""
