"""What the `search` stage is made of beside the optimisers: candidates tried here, in other processes, elsewhere."""
