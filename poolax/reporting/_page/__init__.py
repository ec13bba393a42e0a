"""One self-contained page of HTML from the records of a run."""
