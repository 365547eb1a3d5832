"""Where training tokens come from: sources of documents, and their packing into rows."""
