"""QuestDB: the private server, the schema, the sender and the workers that store bus messages.

In flow order: `questdb` (the private server and its address), `tables` and `schema` (all DDL),
`rows` (bus messages to rows), `sender` (rows to QuestDB), `ledger` (which sequences are stored),
`stage` (stores messages and accounts for them), `catchup` (fetches missing messages), `watch`
(checks the server), `worker` (the processes), `reconcile` (proves that nothing is missing), `read`
(queries of other folders). Only this folder uses QuestDB, SQL and their clients.
"""
