"""QuestDB: the private server, the schema, the sender and the workers that store the bus.

In flow order: `runtime` (Java and the jar), `server` (the private server), `address` (where the
database is), `schema` (all DDL), `sender` (rows to ILP), `rows` (bus messages to rows), `ledger`
(which sequences are stored), `catchup` (fetching what is missing), `watch` (what the server hides),
`worker` (the processes), `reconcile` (the proof), `read` (all that other folders ask of it). Only
this folder knows QuestDB, SQL and their clients.
"""
