"""The platform over HTTP: routes, problems, server-sent events, and their description."""
