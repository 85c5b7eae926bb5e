"""The page: its sources, its npm manifest, and the script that builds `dist/` from them."""
