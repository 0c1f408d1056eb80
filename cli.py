"""Run latentopt from a checkout: `python cli.py invert photos/`."""

from latentopt.__main__ import main

if __name__ == "__main__":
    main()
