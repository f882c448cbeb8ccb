"""Speed as ratios: the method against its rivals, both measured in one run, turn by turn."""
