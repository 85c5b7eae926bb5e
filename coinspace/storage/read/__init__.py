"""Every question to the database that other folders ask, as a function with a name.

`query` (one statement on a connection), `announced` (definitions and operators' words), `memory`
(what the calculator goes on with), `records` (whole records of a range, and which are void), `pool`
(the endpoint's read-only connections), `history` (what the API's routes ask), `statement` and
`select` (SQL of a user's own). Values are bound; names in SQL come from `tables` alone.
"""
