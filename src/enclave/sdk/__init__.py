"""The other side of the wire: `flow` says what each operation asks, `transport` asks it, `client` is what users see."""
