"""What fine-tuning, training and drawing cost, measured as ratios in one run."""
