"""What files of unknown origin are read with: archives' headers within bounds, and a process with limits of its own."""
