"""Mathematics of the hops: schedule, dynamic guidance and the one loop over a trajectory."""
