"""Files of models, ours and foreign, read without running anything in them."""
