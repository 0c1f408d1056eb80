"""Generators and results put on the Hugging Face Hub, with a card that says what they are (extra `hub`)."""
