"""What a run leaves: its folder, checkpoints, trackers."""
