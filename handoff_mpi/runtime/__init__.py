"""The shells: loops that carry events into the machines and their commands out."""
