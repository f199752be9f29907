"""How webhooks get to their receivers."""
