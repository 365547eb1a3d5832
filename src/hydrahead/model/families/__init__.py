"""One file per checkpoint family: where its weights live and what they are called here."""
