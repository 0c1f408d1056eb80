"""The page on which methods are compared: tables, plots and strips of pictures in one file that needs nothing else."""
