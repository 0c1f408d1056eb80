"""Other packages' interfaces to what latentopt does; each needs that package."""
