"""What the cases of a sweep make together: knees, frontiers, best points, best counts and highest rates."""
