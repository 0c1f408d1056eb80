"""One plug-in of each kind. Nothing is imported here: latentopt reads what plug-ins declare without importing them."""
