"""Files and folders: never half-written, swept of what a killed run left, found where they ship."""
