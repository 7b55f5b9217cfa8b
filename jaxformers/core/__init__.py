"""What a transformer is made of: parameters, layers, attention, stacks, heads. Knows no family, no task, no file format."""
