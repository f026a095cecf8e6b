"""One trial's training: plain torch. Knows nothing of Ray, MLflow or pandas. Read ``loop.py`` first."""
