"""The search: settings, searchers, schedulers, trials and their records. The only place that imports Ray."""
