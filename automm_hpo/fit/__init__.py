"""Plans, previews and runs a call of ``fit``."""
