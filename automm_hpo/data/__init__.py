"""Turns a DataFrame into tensors that all trials share. Knows nothing about models or trials."""
