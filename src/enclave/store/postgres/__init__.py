"""Sessions and their audit trails in PostgreSQL, which several control planes can share."""
