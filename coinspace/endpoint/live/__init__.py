"""Live data from the bus: values, books, streams."""
