"""Pictures in and out: files, contact sheets, films. Only here are images 8-bit."""
