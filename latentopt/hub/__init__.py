"""Files of the Hugging Face Hub, named `hf:user/repo` and fetched into the Hub's own cache (extra `hub`)."""
