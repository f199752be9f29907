"""Where sessions and their audit trails are kept."""
