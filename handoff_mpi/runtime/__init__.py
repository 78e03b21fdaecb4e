"""Drivers: loops that gather facts, and carry events into the machines and their commands out."""
