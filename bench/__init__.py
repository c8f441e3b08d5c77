"""The measured claims: `python -m bench.NAME [--quick] [--check]` prints a table and writes JSON."""
