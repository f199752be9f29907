"""What crosses a process boundary: wire types, errors, and the table of operations."""
