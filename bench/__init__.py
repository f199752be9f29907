"""What a session costs, measured on this machine beside what else it could be done with. Nothing here is asserted."""
