"""Tools on top of the collectors: record, check, probe. No live process imports them."""
