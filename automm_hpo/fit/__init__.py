"""A call of ``fit``: planned, previewed, carried out."""
