"""The polar engine: all in-plane angles of a view at once, by circular correlation."""
