"""From a DataFrame to tensors that all trials share. Knows no model, no trial."""
