"""All database queries of other folders, as functions.

`query` (one statement on a connection), `announced` (index definitions and operators' actions),
`memory` (the state that a restarted calculator reads), `records` (whole records of a range, and
void ones), `pool` (the endpoint's read-only connections), `history` (queries of the API's routes),
`statement` and `select` (users' SQL). Values are bound; names in SQL come only from `tables`.
"""
