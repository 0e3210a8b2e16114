"""What runs an experiment and keeps its numbers: definition, runner, result files."""
