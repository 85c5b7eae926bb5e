"""The state of now, from the bus: values, books, streams."""
