"""From a recipe to a run folder: settings, stages and what they depend on, training, inference, the commands."""
