"""What two or more backbones or fields share: features, attention, norms, rotary positions, losses."""
