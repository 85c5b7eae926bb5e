"""Tools that use the collectors: record, check, probe. No live process imports them."""
