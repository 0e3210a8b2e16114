"""The experiment behind chapter `introduction/what-is-transfer-learning`."""
