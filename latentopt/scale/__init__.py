"""One run by many processes: a ledger of batches, workers on one machine, actors on many, and the merging of parts."""
