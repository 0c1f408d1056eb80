"""The files of a result, and of the folder of many results."""

RUN_FILES = (
    "target.png",
    "proj.png",
    "projected_w.npz",
    "inputs.safetensors",
    "recipe.toml",
    "history.jsonl",
    "run.json",
)
SUMMARY_FILES = ("summary.csv", "index.html", "grid.png")
DELTA_FILE = "delta.safetensors"  # of a result whose generator was tuned
RESULT_FILES = frozenset((*RUN_FILES, DELTA_FILE, *SUMMARY_FILES))
